package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;

class InterruptsTest {
    @Test
    void interruptedThreadEndsWithSparksExceptionAndStaysInterrupted() {
        Interrupts.THREAD.check();
        Thread.currentThread().interrupt();
        try {
            Exception thrown = assertThrows(Exception.class, Interrupts.THREAD::check);
            assertEquals(InterruptedException.class, thrown.getClass());
        } finally {
            assertTrue(Thread.interrupted());
        }
    }
}
