package io.forebay.spark;

import io.forebay.core.BlockReader.Block;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.SequenceInputStream;
import java.util.Enumeration;
import java.util.NoSuchElementException;
import org.apache.comet.CometConf$;
import org.apache.comet.Native;
import org.apache.comet.vector.NativeUtil;
import org.apache.spark.InterruptibleIterator;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.serializer.SerializerManager;
import org.apache.spark.shuffle.ShuffleReadMetricsReporter;
import org.apache.spark.sql.comet.execution.shuffle.CometShuffleDependency;
import org.apache.spark.sql.comet.execution.shuffle.CometShuffleReader;
import org.apache.spark.sql.comet.execution.shuffle.NativeBatchDecoderIterator;
import org.apache.spark.sql.vectorized.ColumnarBatch;
import org.apache.spark.util.TaskCompletionListener;
import scala.Option;
import scala.Product2;
import scala.Tuple2;
import scala.collection.AbstractIterator;
import scala.collection.Iterator;

/**
 * Reads partitions of one of Comet's exchanges: verified frames one after the other, decoded by
 * Comet.
 */
final class CometReader<K, C> implements CometShuffleReader<K, C> {
    private final CometShuffleDependency<K, ?, C> dependency;
    private final ForebayShuffleReader<K, C> reader;
    private final boolean encrypted;
    private final TaskContext context;
    private final ShuffleReadMetricsReporter metrics;

    /** @param encrypted whether each block is a stream that Spark has encrypted */
    CometReader(
            CometShuffleDependency<K, ?, C> dependency,
            ForebayShuffleReader<K, C> reader,
            boolean encrypted,
            TaskContext context,
            ShuffleReadMetricsReporter metrics) {
        this.dependency = dependency;
        this.reader = reader;
        this.encrypted = encrypted;
        this.context = context;
        this.metrics = metrics;
    }

    @Override
    public InputStream readAsRawStream() {
        BlockSource source = reader.source();
        if (source == null) {
            return new ByteArrayInputStream(new byte[0]);
        }
        TaskReaders readers = TaskReaders.of(context);
        return new Told(new SequenceInputStream(new Streams(source)), readers);
    }

    @Override
    @SuppressWarnings("unchecked")
    public Iterator<Product2<K, C>> read() {
        NativeUtil memory = new NativeUtil();
        NativeBatchDecoderIterator batches =
                new NativeBatchDecoderIterator(
                        readAsRawStream(),
                        dependency.decodeTime(),
                        new Native(),
                        memory,
                        (Boolean) CometConf$.MODULE$.COMET_TRACING_ENABLED().get(),
                        Option.empty(),
                        Math.toIntExact((Long) CometConf$.MODULE$.COMET_SHUFFLE_READ_BUFFER_SIZE().get()));
        context.addTaskCompletionListener(
                (TaskCompletionListener)
                        ended -> {
                            batches.close();
                            memory.close();
                        });
        Iterator<Product2<Object, ColumnarBatch>> pairs =
                new AbstractIterator<Product2<Object, ColumnarBatch>>() {
                    @Override
                    public boolean hasNext() {
                        return batches.hasNext();
                    }

                    @Override
                    public Product2<Object, ColumnarBatch> next() {
                        ColumnarBatch batch = batches.next();
                        metrics.incRecordsRead(batch.numRows());
                        return new Tuple2<>(0, batch);
                    }
                };
        return new InterruptibleIterator<>(context, (Iterator<Product2<K, C>>) (Iterator<?>) pairs);
    }

    /** A stream for each block that is encrypted by itself, or one for all. */
    private final class Streams implements Enumeration<InputStream> {
        private final BlockSource source;
        private final SerializerManager manager = SparkEnv.get().serializerManager();
        private Block next;
        private boolean over;

        Streams(BlockSource source) {
            this.source = source;
        }

        @Override
        public boolean hasMoreElements() {
            if (next == null && !over) {
                Block block = new Block();
                over = !source.next(block);
                next = over ? null : block;
            }
            return next != null;
        }

        @Override
        public InputStream nextElement() {
            if (!hasMoreElements()) {
                throw new NoSuchElementException("no more blocks");
            }
            InputStream bytes = new BlockStream(source, next, !encrypted);
            next = null;
            return encrypted ? manager.wrapForEncryption(bytes) : bytes;
        }
    }

    /** Tells Spark's metrics of the end. */
    private static final class Told extends InputStream {
        private final InputStream bytes;
        private final TaskReaders readers;
        private boolean told;

        Told(InputStream bytes, TaskReaders readers) {
            this.bytes = bytes;
            this.readers = readers;
        }

        @Override
        public int read() throws IOException {
            return counted(bytes.read());
        }

        @Override
        public int read(byte[] target, int offset, int length) throws IOException {
            return counted(bytes.read(target, offset, length));
        }

        private int counted(int read) {
            if (read < 0 && !told) {
                told = true;
                readers.ended();
            }
            return read;
        }
    }
}
