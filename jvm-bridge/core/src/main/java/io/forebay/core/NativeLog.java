package io.forebay.core;

/**
 * Brings the native client's log lines to a logger of Java, by a polling daemon thread: native
 * threads never call Java. The environment variable {@code FOREBAY_LOG} sets the level, by default
 * warnings and errors. Before the start of this thread lines go to standard error.
 *
 * <p>A bad logger harms only this thread: while the logger blocks, lines wait in a bounded queue
 * and are then counted; an exception of the logger is dropped with its line, because an exception
 * that leaves a thread ends an executor of Spark's. The last lines before the end of a JVM may stay
 * in the queue.
 */
public final class NativeLog {
    /** How long one native call waits for a line. */
    private static final int SLICE_MILLIS = 1000;

    private static Thread thread;

    /** Where lines go. */
    public interface Sink {
        /**
         * One event.
         *
         * @param level ERROR, WARN, INFO, DEBUG or TRACE
         * @param origin the part of the client that logs, with dots: {@code shuffle_client.app}
         */
        void line(String level, String origin, String text);
    }

    private NativeLog() {}

    /** Begins, once per JVM; loads the library. Who comes later changes nothing. */
    public static synchronized void start(Sink sink) {
        if (thread == null) {
            NativeLibrary.load();
            Thread starting = new Thread(() -> run(sink), "forebay-log");
            starting.setDaemon(true);
            // Not the class loader of the first task: its classes would never be unloaded.
            starting.setContextClassLoader(NativeLog.class.getClassLoader());
            starting.start();
            thread = starting;
            Native.logToJava();
        }
    }

    private static void run(Sink sink) {
        while (true) {
            try {
                String[] lines = Native.logLines(SLICE_MILLIS);
                for (int i = 0; i + 2 < lines.length; i += 3) {
                    pass(sink, lines[i], lines[i + 1].replace("::", "."), lines[i + 2]);
                }
            } catch (Throwable e) {
                // No memory for the lines: there may be some for the next.
                pause();
            }
        }
    }

    private static void pass(Sink sink, String level, String origin, String text) {
        try {
            sink.line(level, origin, text);
        } catch (Throwable e) {
            // A logger that fails has nobody to be told to, and the next line may pass.
        }
    }

    private static void pause() {
        try {
            Thread.sleep(SLICE_MILLIS);
        } catch (InterruptedException e) {
            // Nobody has a reason to, and the thread has nothing to end.
        }
    }
}
