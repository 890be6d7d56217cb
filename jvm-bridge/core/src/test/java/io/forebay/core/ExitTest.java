package io.forebay.core;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.InetAddress;
import java.net.ServerSocket;
import java.util.Collections;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Native threads keep no JVM alive, whatever they are doing. */
@Timeout(60)
class ExitTest {
    /** The other JVM: leaves everything open and waiting. */
    public static final class Main {
        private Main() {}

        public static void main(String[] args) {
            ForebayClient client = ForebayClient.open(new ClientSettings(Collections.singleton(args[0])));
            Caller caller = new Caller("app", "token", 60_000);
            String[] candidates = {args[0]};
            MapOutputWriter writer =
                    client.openWriter(
                            caller,
                            new MapAttempt(1, 0, 7),
                            new ShuffleLayout(1, 1, candidates, "disk", "lz4"),
                            1 << 20,
                            InterruptCheck.THREAD);
            writer.block(0, new byte[1 << 20], 0, 1 << 20, 1);
            Thread waiting = new Thread(writer::commit);
            waiting.setDaemon(true);
            waiting.start();
            System.out.println("main is done");
        }
    }

    @Test
    void aJvmExitsWhileNativeThreadsWaitForAServer() throws Exception {
        try (ServerSocket silent = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
            String address = "127.0.0.1:" + silent.getLocalPort();
            Process process = OtherJvm.of(Main.class, address).inheritIO().start();
            try {
                assertTrue(process.waitFor(30, TimeUnit.SECONDS), "the JVM does not exit");
                assertEquals(0, process.exitValue());
            } finally {
                process.destroyForcibly();
            }
        }
    }
}
