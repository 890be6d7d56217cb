package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

class ShuffleNumbersTest {
    private final ShuffleNumbers numbers = new ShuffleNumbers();

    @Test
    void shuffleHasSparksNumberUntilItIsDeleted() {
        ShuffleNumbers.Current current = numbers.register(7);
        assertEquals(7, current.value());
        assertEquals(7, numbers.delete(7).number());
        assertNotEquals(7, current.value());
    }

    @Test
    void saysWhetherSomethingMayReadTheShuffleAgain() {
        ShuffleNumbers.Current current = numbers.register(7);
        assertTrue(numbers.delete(7).canBeRead());
        assertTrue(numbers.delete(7).canBeRead(), "a second time too");
        assertTrue(!numbers.delete(8).canBeRead());
        assertNotEquals(7, current.value());
    }

    @Test
    void whatIsWrittenAfterADeletionIsDeletedByItsOwnNumber() {
        ShuffleNumbers.Current first = numbers.register(7);
        ShuffleNumbers.Current second = numbers.register(8);
        numbers.delete(7);
        numbers.delete(8);
        assertNotEquals(first.value(), second.value());
        int again = first.value();
        assertEquals(again, numbers.delete(7).number());
        assertNotEquals(again, first.value());
    }

    @Test
    void shuffleThatIsNotKnownIsDeletedBySparksNumber() {
        assertEquals(9, numbers.delete(9).number());
    }

    @Test
    void tasksGetTheNumberOfTheMomentInWhichTheyAreMade() throws Exception {
        ShuffleNumbers.Current current = numbers.register(7);
        numbers.delete(7);
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (ObjectOutputStream out = new ObjectOutputStream(bytes)) {
            out.writeObject(current);
        }
        Object copy = new ObjectInputStream(new ByteArrayInputStream(bytes.toByteArray())).readObject();
        assertEquals(current.value(), ((ShuffleNumbers.Current) copy).value());
    }

    @Test
    void shufflesThatWereDeletedAndAreNotReferredToAreForgotten() throws Exception {
        for (int shuffle = 0; shuffle < 1000; shuffle++) {
            ShuffleNumbers.Current current = numbers.register(shuffle);
            numbers.delete(shuffle);
            assertNotEquals(shuffle, current.value());
        }
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        while (numbers.size() > 10 && System.nanoTime() < end) {
            System.gc();
            Thread.sleep(10);
        }
        assertTrue(numbers.size() <= 10, numbers.size() + " shuffles are kept in mind");
    }
}
