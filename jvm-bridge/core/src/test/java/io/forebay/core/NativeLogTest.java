package io.forebay.core;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * What the native side logs reaches its logger, whatever that does, and nothing reaches standard
 * error. In JVMs of their own.
 */
@Timeout(120)
class NativeLogTest {
    @TempDir
    Path folder;

    /** Panics, which is logged, with a logger that behaves as the argument says. */
    public static final class Main {
        private static volatile boolean logged;
        private static volatile boolean all;

        private Main() {}

        public static void main(String[] args) throws Exception {
            // As in executors of Spark's: an exception that leaves a thread is the end.
            Thread.setDefaultUncaughtExceptionHandler((thread, e) -> Runtime.getRuntime().halt(50));
            ClassLoader foreign = new ClassLoader() {};
            Thread.currentThread().setContextClassLoader(foreign);
            NativeLog.start((level, origin, text) -> line(args[0], foreign, level, origin, text));
            panic("first");
            // The logger has it by now, or else a minute is over.
            for (int i = 0; !logged && i < 6000; i++) {
                Thread.sleep(10);
            }
            panic("second");
            for (int i = 0; args[0].equals("blocks") && i < 3000; i++) {
                panic("more");
            }
            for (int i = 0; !args[0].equals("blocks") && !all && i < 6000; i++) {
                Thread.sleep(10);
            }
            System.out.println("main is done");
        }

        private static void panic(String message) {
            assertThrows(ForebayException.class, () -> Native.panic(message));
        }

        private static void line(String mode, ClassLoader foreign, String level, String origin, String text) {
            if (Thread.currentThread().getContextClassLoader() == foreign) {
                System.out.println("the class loader of another");
            }
            System.out.println(level + " " + origin + " " + text.replace("\n", " "));
            all = logged;
            logged = true;
            switch (mode) {
                case "throws":
                    throw new NoClassDefFoundError("a logger that lacks something");
                case "blocks":
                    while (true) {
                        try {
                            Thread.sleep(60_000);
                        } catch (InterruptedException e) {
                            // Goes on blocking.
                        }
                    }
                default:
            }
        }
    }

    @Test
    void aPanicIsLoggedWithItsPlaceAndNotToStandardError() throws Exception {
        String out = run("quiet");
        assertTrue(out.matches("(?s).*ERROR forebay_jni.log panicked at .*exports.rs:\\d+:\\d+: first thread=.*second thread=.*"), out);
    }

    @Test
    void aLoggerThatThrowsLosesItsLineAndNothingElse() throws Exception {
        String out = run("throws");
        assertTrue(out.contains("first") && out.contains("second"), out);
    }

    @Test
    void aLoggerThatBlocksHoldsUpNobody() throws Exception {
        String out = run("blocks");
        assertFalse(out.contains("second"), out);
    }

    private String run(String mode) throws Exception {
        Path out = folder.resolve("out");
        Path err = folder.resolve("err");
        ProcessBuilder builder = OtherJvm.of(Main.class, mode);
        builder.environment().remove("FOREBAY_LOG");
        builder.environment().remove("RUST_BACKTRACE");
        Process process = builder.redirectOutput(out.toFile()).redirectError(err.toFile()).start();
        try {
            assertTrue(process.waitFor(60, TimeUnit.SECONDS), "the JVM does not exit");
            String said = new String(Files.readAllBytes(out), StandardCharsets.UTF_8);
            assertEquals("", new String(Files.readAllBytes(err), StandardCharsets.UTF_8));
            assertEquals(0, process.exitValue(), said);
            assertTrue(said.contains("main is done") && !said.contains("the class loader of another"), said);
            return said;
        } finally {
            process.destroyForcibly();
        }
    }
}
