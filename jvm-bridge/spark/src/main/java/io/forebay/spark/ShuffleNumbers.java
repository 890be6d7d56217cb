package io.forebay.spark;

import java.io.Serializable;
import java.lang.ref.ReferenceQueue;
import java.lang.ref.WeakReference;
import java.util.HashMap;
import java.util.Map;

/**
 * Under which number the servers know each shuffle: Spark's own, until its data are deleted.
 *
 * <p>The servers refuse pushes to a deleted shuffle, because they come from late tasks. But Spark
 * frees the storage of shuffles that may be read again, at the end of a query
 * ({@code spark.sql.classic.shuffleDependency.fileCleanup.enabled}, 4.1), and then expects failed
 * fetches and new map runs. So outputs written after a deletion have a new number. Tasks learn the
 * number from the shuffle's handle, which Spark serialises anew for each attempt of a stage.
 *
 * <p>Lives on the driver, where shuffles are registered and deleted.
 */
final class ShuffleNumbers {
    /** A shuffle's number of now; travels in its handle. */
    static final class Current implements Serializable {
        private static final long serialVersionUID = 1L;

        private volatile int value;

        private Current(int value) {
            this.value = value;
        }

        /** On an executor: the number of a handle read from bytes. */
        static Current of(int value) {
            return new Current(value);
        }

        int value() {
            return value;
        }
    }

    private static final class Entry extends WeakReference<Current> {
        final int shuffle;
        int number;
        boolean deleted;

        Entry(int shuffle, Current current, ReferenceQueue<Current> gone) {
            super(current, gone);
            this.shuffle = shuffle;
            this.number = current.value;
        }
    }

    private final Map<Integer, Entry> entries = new HashMap<>();

    /** Of shuffles that nothing refers to any more. */
    private final ReferenceQueue<Current> gone = new ReferenceQueue<>();

    /** Spark counts up from 0. */
    private int unused = Integer.MAX_VALUE;

    /** Starts with Spark's number. */
    synchronized Current register(int shuffle) {
        forget();
        Current current = new Current(shuffle);
        entries.put(shuffle, new Entry(shuffle, current, gone));
        return current;
    }

    /** What is to be deleted of a shuffle. */
    static final class Deleted {
        private final int number;
        private final boolean canBeRead;

        private Deleted(int number, boolean canBeRead) {
            this.number = number;
            this.canBeRead = canBeRead;
        }

        /** The number whose data are to be deleted. */
        int number() {
            return number;
        }

        /**
         * Whether the shuffle is still referred to, and so may be read and written again.
         */
        boolean canBeRead() {
            return canBeRead;
        }
    }

    /** Gives the shuffle another number, in case it is written again. */
    synchronized Deleted delete(int shuffle) {
        Entry entry = entries.get(shuffle);
        if (entry == null) {
            return new Deleted(shuffle, false);
        }
        int number = entry.number;
        Current current = entry.get();
        if (current == null) {
            entries.remove(shuffle);
        } else {
            entry.number = unused--;
            entry.deleted = true;
            current.value = entry.number;
        }
        return new Deleted(number, current != null);
    }

    /** What was deleted last and can be written no more. */
    private void forget() {
        for (Object ended = gone.poll(); ended != null; ended = gone.poll()) {
            Entry entry = (Entry) ended;
            if (entry.deleted) {
                entries.remove(entry.shuffle, entry);
            }
        }
    }

    /** How many shuffles are kept in mind. */
    synchronized int size() {
        forget();
        return entries.size();
    }
}
