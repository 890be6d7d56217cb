package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotSame;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.lang.reflect.Field;
import org.apache.spark.SparkConf;
import org.apache.spark.shuffle.BaseShuffleHandle;
import org.apache.spark.shuffle.ShuffleHandle;
import org.junit.jupiter.api.Test;

class ForeignHandleTest {
    /**
     * Has a copy of our classes of its own, as the loader of {@code userClassPathFirst} has.
     * Spark's are its parent's.
     */
    private static final class ChildFirst extends ClassLoader {
        ChildFirst() {
            super(ForeignHandleTest.class.getClassLoader());
        }

        @Override
        protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
            if (!name.startsWith("io.forebay.")) {
                return super.loadClass(name, resolve);
            }
            synchronized (getClassLoadingLock(name)) {
                Class<?> loaded = findLoadedClass(name);
                return loaded != null ? loaded : define(name);
            }
        }

        private Class<?> define(String name) throws ClassNotFoundException {
            try (InputStream in = getParent().getResourceAsStream(name.replace('.', '/') + ".class")) {
                ByteArrayOutputStream bytes = new ByteArrayOutputStream();
                byte[] part = new byte[8192];
                for (int n = in.read(part); n > 0; n = in.read(part)) {
                    bytes.write(part, 0, n);
                }
                return defineClass(name, bytes.toByteArray(), 0, bytes.size());
            } catch (IOException e) {
                throw new ClassNotFoundException(name, e);
            }
        }
    }

    /** As deserialisation makes it: no constructor runs. */
    private static Object make(Class<?> type) throws Exception {
        Class<?> unsafe = Class.forName("sun.misc.Unsafe"); // which --release 8 does not show
        Field instance = unsafe.getDeclaredField("theUnsafe");
        instance.setAccessible(true);
        return unsafe.getMethod("allocateInstance", Class.class).invoke(instance.get(null), type);
    }

    private static void set(Object of, String name, Object value) throws Exception {
        Field field = of.getClass().getDeclaredField(name);
        field.setAccessible(true);
        field.set(of, value);
    }

    private static ShuffleHandle foreign() throws Exception {
        ClassLoader loader = new ChildFirst();
        Object handle = make(loader.loadClass(ForebayShuffleHandle.class.getName()));
        Object number = make(loader.loadClass(ShuffleNumbers.Current.class.getName()));
        set(number, "value", 41);
        set(handle, "number", number);
        set(handle, "app", "app-1");
        set(handle, "token", "secret");
        set(handle, "leaseMillis", 5L);
        set(handle, "candidates", new String[] {"a:1", "b:2"});
        set(handle, "durability", "mirror");
        set(handle, "numMaps", 3);
        set(handle, "numPartitions", 7);
        set(handle, "compression", "lz4");
        set(handle, "tls", new String[] {"ca", "name", null, null});
        return (ShuffleHandle) handle;
    }

    @Test
    void handleOfOurClassFromAnotherLoaderIsTakenOver() throws Exception {
        ShuffleHandle foreign = foreign();
        assertFalse(foreign instanceof ForebayShuffleHandle);
        ForebayShuffleHandle<Object, Object, Object> handle = ForebayShuffleManager.ours(foreign);
        assertNotSame(foreign, handle);
        assertEquals(41, handle.number());
        assertEquals("app-1", handle.caller().app());
        assertEquals("secret", handle.caller().token());
        assertEquals(5, handle.caller().leaseMillis());
        assertArrayEquals(new String[] {"a:1", "b:2"}, handle.layout().candidates());
        assertEquals("mirror", handle.layout().durability());
        assertEquals(3, handle.layout().numMaps());
        assertEquals(7, handle.numPartitions);
        assertEquals("lz4", handle.layout().compression());
        assertArrayEquals(new String[] {"ca", "name", null, null}, handle.tls());
        assertSame(((BaseShuffleHandle<?, ?, ?>) foreign).dependency(), handle.dependency());
    }

    @Test
    void handleOfAnotherVersionIsRefusedWithBothLoadersAndTheRemedy() throws Exception {
        ShuffleHandle foreign = foreign();
        set(foreign, "candidates", null);
        set(foreign, "number", null);
        String message = assertThrows(IllegalStateException.class, () -> ForebayShuffleManager.ours(foreign)).getMessage();
        assertTrue(message.contains("loaded twice") && message.contains("userClassPathFirst") && message.contains("one class path"), message);
        assertTrue(message.contains(foreign.getClass().getClassLoader().getClass().getName()), message);
        assertTrue(message.contains(ForebayShuffleHandle.class.getClassLoader().getClass().getName()), message);
    }

    @Test
    void handleIsSparksOnlyIfItsClassIs() throws Exception {
        SparkConf conf = new SparkConf(false).set("spark.forebay.servers", "a:1");
        for (String fallback : new String[] {"true", "false"}) {
            ForebayConf settings = new ForebayConf(conf.set("spark.forebay.fallback", fallback));
            assertFalse(ForebayShuffleManager.isSparks(foreign(), settings));
            assertFalse(ForebayShuffleManager.isSparks((ShuffleHandle) make(ForebayShuffleHandle.class), settings));
            assertFalse(ForebayShuffleManager.isSparks((ShuffleHandle) make(Others.class), settings));
            ShuffleHandle sparks = (ShuffleHandle) make(org.apache.spark.shuffle.sort.SerializedShuffleHandle.class);
            assertEquals(settings.fallback(), ForebayShuffleManager.isSparks(sparks, settings));
        }
    }

    @Test
    void handleOfAnotherManagerIsRefused() throws Exception {
        ShuffleHandle others = (ShuffleHandle) make(Others.class);
        String message = assertThrows(IllegalStateException.class, () -> ForebayShuffleManager.ours(others)).getMessage();
        assertTrue(message.contains("another shuffle manager") && message.contains(Others.class.getName()), message);
    }

    private static final class Others extends BaseShuffleHandle<Object, Object, Object> {
        private static final long serialVersionUID = 1L;

        private Others() {
            super(0, null);
        }
    }
}
