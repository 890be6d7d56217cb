package io.forebay.core;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * The plan of a reduce task: ranges of partitions and of map indexes, and exactly the outputs to be
 * seen. For each output call {@link #output}, then {@link #partition} for every partition of the
 * range with data, ascending. Outputs without data may be left out.
 */
public final class ReadPlan {
    private final int partitionStart;
    private final int partitionEnd;
    private final int mapStart;
    private final int mapEnd;

    private final Map<String, Integer> locations = new LinkedHashMap<>();
    private int outputs;
    private int[] outputLocation = new int[16];
    private int[] outputMapIndex = new int[16];
    private long[] outputAttempt = new long[16];
    private int[] partitionCounts = new int[16];
    private int total;
    private int[] partitions = new int[16];

    /**
     * Ranges are half open.
     *
     * @param mapEnd {@code Integer.MAX_VALUE} = no bound
     */
    public ReadPlan(int partitionStart, int partitionEnd, int mapStart, int mapEnd) {
        this.partitionStart = partitionStart;
        this.partitionEnd = partitionEnd;
        this.mapStart = mapStart;
        this.mapEnd = mapEnd;
    }

    /**
     * Adds an output without partitions.
     *
     * @param location {@code volume@host:port}, or two of them with a {@code +} in between: the
     *     copies of one output
     */
    public void output(String location, int mapIndex, long attempt) {
        if (outputs == outputLocation.length) {
            int length = Math.multiplyExact(outputs, 2);
            outputLocation = Arrays.copyOf(outputLocation, length);
            outputMapIndex = Arrays.copyOf(outputMapIndex, length);
            outputAttempt = Arrays.copyOf(outputAttempt, length);
            partitionCounts = Arrays.copyOf(partitionCounts, length);
        }
        Integer known = locations.get(location);
        if (known == null) {
            known = locations.size();
            locations.put(location, known);
        }
        outputLocation[outputs] = known;
        outputMapIndex[outputs] = mapIndex;
        outputAttempt[outputs] = attempt;
        partitionCounts[outputs] = 0;
        outputs++;
    }

    /** The output added last has data in this partition. */
    public void partition(int partition) {
        if (total == partitions.length) {
            partitions = Arrays.copyOf(partitions, Math.multiplyExact(total, 2));
        }
        partitions[total++] = partition;
        partitionCounts[outputs - 1]++;
    }

    /** Whether there is nothing to read: no output has data. */
    public boolean isEmpty() {
        return total == 0;
    }

    long open(long client, Caller caller, int shuffle, long windowBytes) {
        return Native.readerOpen(
                client,
                caller.app,
                caller.token,
                caller.leaseMillis,
                shuffle,
                partitionStart,
                partitionEnd,
                mapStart,
                mapEnd,
                locations.keySet().toArray(new String[0]),
                Arrays.copyOf(outputLocation, outputs),
                Arrays.copyOf(outputMapIndex, outputs),
                Arrays.copyOf(outputAttempt, outputs),
                Arrays.copyOf(partitionCounts, outputs),
                Arrays.copyOf(partitions, total),
                windowBytes);
    }
}
