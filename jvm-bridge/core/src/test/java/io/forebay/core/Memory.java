package io.forebay.core;

import java.lang.reflect.Field;
import java.lang.reflect.Method;

/**
 * Native memory, as Spark's {@code Platform} reads and writes it. By reflection: the compiler warns
 * about the class itself.
 */
final class Memory {
    private static final Object UNSAFE;
    private static final Method PUT_LONG;
    private static final Method PUT_BYTE;
    private static final Method GET_BYTE;

    static {
        try {
            Class<?> type = Class.forName("sun.misc.Unsafe");
            Field instance = type.getDeclaredField("theUnsafe");
            instance.setAccessible(true);
            UNSAFE = instance.get(null);
            PUT_LONG = type.getMethod("putLong", long.class, long.class);
            PUT_BYTE = type.getMethod("putByte", long.class, byte.class);
            GET_BYTE = type.getMethod("getByte", long.class);
        } catch (ReflectiveOperationException e) {
            throw new ExceptionInInitializerError(e);
        }
    }

    private Memory() {}

    static void putLong(long address, long value) {
        call(PUT_LONG, address, value);
    }

    static void put(long address, byte[] bytes) {
        for (int i = 0; i < bytes.length; i++) {
            call(PUT_BYTE, address + i, bytes[i]);
        }
    }

    static byte[] get(long address, long length) {
        byte[] bytes = new byte[Math.toIntExact(length)];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = (byte) call(GET_BYTE, address + i);
        }
        return bytes;
    }

    private static Object call(Method method, Object... arguments) {
        try {
            return method.invoke(UNSAFE, arguments);
        } catch (ReflectiveOperationException e) {
            throw new AssertionError(e);
        }
    }
}
