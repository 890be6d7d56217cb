package io.forebay.core;

/**
 * Takes what the native client logs to a logger of Java, by a daemon thread that asks for it: native threads never call Java. Which lines
 * there are is said by the environment variable {@code FOREBAY_LOG}, by default warnings and errors. Until it is started they go to
 * standard error.
 *
 * <p>Whatever the logger does is the thread's own affair: while it blocks, lines wait in a bounded queue and are then counted, and what
 * it throws is dropped with the line, because an exception that leaves a thread ends an executor of Spark's. Lines of the last moments of
 * a JVM may stay in the queue.
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
            // Not that of the task which happens to be the first: its classes would never go.
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
