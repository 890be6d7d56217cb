package io.forebay.jobs;

import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.Serializable;
import java.nio.ByteBuffer;
import org.apache.spark.serializer.DeserializationStream;
import org.apache.spark.serializer.SerializationStream;
import org.apache.spark.serializer.Serializer;
import org.apache.spark.serializer.SerializerInstance;
import scala.reflect.ClassTag;

/**
 * A serialiser of somebody else's for strings and numbers. Relocatable, it writes nothing but
 * records. Otherwise a stream has a head and an end, and says so if it is given half a stream, or
 * two.
 */
final class Framed extends Serializer implements Serializable {
  private static final int HEAD = 0xf0f0;
  private final boolean relocatable;

  Framed(boolean relocatable) {
    this.relocatable = relocatable;
  }

  @Override
  public boolean supportsRelocationOfSerializedObjects() {
    return relocatable;
  }

  @Override
  public SerializerInstance newInstance() {
    return new Instance(relocatable);
  }

  private static final class Instance extends SerializerInstance {
    private final boolean relocatable;

    Instance(boolean relocatable) {
      this.relocatable = relocatable;
    }

    @Override
    public SerializationStream serializeStream(OutputStream stream) {
      return new Out(new DataOutputStream(stream), relocatable);
    }

    @Override
    public DeserializationStream deserializeStream(InputStream stream) {
      return new In(new DataInputStream(stream), relocatable);
    }

    @Override
    public <T> ByteBuffer serialize(T object, ClassTag<T> tag) {
      throw new UnsupportedOperationException("only streams");
    }

    @Override
    public <T> T deserialize(ByteBuffer bytes, ClassTag<T> tag) {
      throw new UnsupportedOperationException("only streams");
    }

    @Override
    public <T> T deserialize(ByteBuffer bytes, ClassLoader loader, ClassTag<T> tag) {
      throw new UnsupportedOperationException("only streams");
    }
  }

  private static final class Out extends SerializationStream {
    private final DataOutputStream out;
    private final boolean relocatable;

    Out(DataOutputStream out, boolean relocatable) {
      this.out = out;
      this.relocatable = relocatable;
      if (!relocatable) {
        io(() -> out.writeInt(HEAD));
      }
    }

    @Override
    public <T> SerializationStream writeObject(T object, ClassTag<T> tag) {
      io(() -> {
        if (object instanceof Integer) {
          out.writeByte(1);
          out.writeInt((Integer) object);
        } else {
          out.writeByte(2);
          out.writeUTF((String) object);
        }
      });
      return this;
    }

    @Override
    public void flush() {
      io(out::flush);
    }

    @Override
    public void close() {
      io(() -> {
        if (!relocatable) {
          out.writeByte(0);
        }
        out.close();
      });
    }
  }

  private static final class In extends DeserializationStream {
    private final DataInputStream in;
    private final boolean relocatable;

    In(DataInputStream in, boolean relocatable) {
      this.in = in;
      this.relocatable = relocatable;
      if (!relocatable) {
        io(() -> check(in.readInt() == HEAD, "no head"));
      }
    }

    @Override
    @SuppressWarnings("unchecked")
    public <T> T readObject(ClassTag<T> tag) {
      Object[] read = new Object[1];
      io(() -> {
        switch (in.readByte()) {
          case 0:
            check(!relocatable && in.read() < 0, "something behind the end");
            throw new EOFException();
          case 1:
            read[0] = in.readInt();
            break;
          default:
            read[0] = in.readUTF();
        }
      });
      return (T) read[0];
    }

    @Override
    public void close() {
      io(in::close);
    }
  }

  private interface Io {
    void run() throws IOException;
  }

  private static void check(boolean is, String what) {
    if (!is) {
      throw new IllegalStateException("not one whole stream: " + what);
    }
  }

  /** Spark takes an EOFException for the end, and Scala knows no checked exceptions. */
  private static void io(Io io) {
    try {
      io.run();
    } catch (IOException e) {
      throw Framed.<RuntimeException>unchecked(e);
    }
  }

  @SuppressWarnings("unchecked")
  private static <E extends Throwable> E unchecked(IOException e) throws E {
    throw (E) e;
  }
}
