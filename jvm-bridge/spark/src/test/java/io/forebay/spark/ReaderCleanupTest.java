package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

class ReaderCleanupTest {
    private final CountDownLatch closed = new CountDownLatch(1);
    private final ReaderCleanup cleanup = new ReaderCleanup(closed::countDown);

    @Test
    void readerOfTheTaskItselfIsClosedWhenTheTaskEnds() {
        cleanup.usedBy(Thread.currentThread());
        cleanup.onTaskCompletion(null);
        assertEquals(0, closed.getCount());
    }

    @Test
    void readerIsKeptWhileAnotherThreadThatReadFromItIsRunning() throws Exception {
        CountDownLatch read = new CountDownLatch(1);
        CountDownLatch leave = new CountDownLatch(1);
        Thread python =
                new Thread(
                        () -> {
                            cleanup.usedBy(Thread.currentThread());
                            read.countDown();
                            try {
                                leave.await();
                            } catch (InterruptedException e) {
                                throw new IllegalStateException(e);
                            }
                        });
        python.start();
        read.await();
        cleanup.onTaskCompletion(null);
        assertEquals(false, closed.await(200, TimeUnit.MILLISECONDS));
        leave.countDown();
        assertTrue(closed.await(10, TimeUnit.SECONDS));
        python.join();
    }
}
