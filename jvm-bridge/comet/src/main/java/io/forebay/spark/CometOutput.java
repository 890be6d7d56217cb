package io.forebay.spark;

import io.forebay.core.CommittedOutput;
import io.forebay.core.InterruptCheck;
import io.forebay.core.MapAttempt;
import io.forebay.core.MapOutputWriter;
import io.forebay.core.ShuffleLayout;
import java.io.IOException;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.util.TaskCompletionListener;

/**
 * The output of one map attempt as Comet makes it: frames, each with its length in front. Nothing of
 * it is visible before {@link #commit}, and what is not committed when the task ends is aborted
 * (invariant: whole-attempt-or-none).
 *
 * <p>Comet calls from its own native threads too, one at a time; the monitor is for the end of a
 * task in between, which waits for no longer than a look at the kill flag takes.
 */
final class CometOutput {
    /** In front of each frame: the number of bytes behind this number, little-endian. */
    static final int PREFIX = 8;

    /** After that, fields and codec: no frame is shorter, as Comet's reader has it. */
    private static final int LEAST = 12;

    /** Comet compresses frames itself. */
    private static final String NOT_COMPRESSED = "none";

    private static final long NO_ARENA = 0;

    private final ShuffleTask<?, ?, ?> task;
    private final long attempt;
    private MapOutputWriter output;
    private CommittedOutput committed;
    private boolean closed;

    CometOutput(ShuffleTask<?, ?, ?> task, long attempt) {
        this.task = task;
        this.attempt = attempt;
        task.context.addTaskCompletionListener((TaskCompletionListener) ended -> close());
    }

    /** Whether a partition's bytes are one encrypted stream and not frames. */
    static boolean isEncryptedByComet(boolean isNative) {
        return !isNative && SparkEnv.get().serializerManager().encryptionEnabled();
    }

    int numPartitions() {
        return task.handle.numPartitions;
    }

    /** Adds bytes of one or more whole frames. */
    synchronized void frames(int partition, byte[] bytes, int offset, int length) throws IOException {
        int end = offset + length;
        int start = offset;
        while (start < end) {
            int frame = end - start < PREFIX ? -1 : frameLength(bytes, start);
            if (frame < 0 || frame > end - start) {
                throw new IOException(
                        "partition " + partition + ": " + (end - start) + " of " + length + " bytes by Comet are no whole frame; this Comet is not the tested one ("
                                + CometVersion.refusal("there", Shim.sparkVersion()) + ")");
            }
            open().frame(partition, bytes, start, frame, 1);
            start += frame;
        }
    }

    /** Adds bytes that are read again in one piece. */
    synchronized void stream(int partition, byte[] bytes, int length) {
        open().block(partition, bytes, 0, length, 1);
    }

    /** With the number in front; -1 for what is none, or longer than an array. */
    static int frameLength(byte[] bytes, int offset) {
        long length = 0;
        for (int i = PREFIX - 1; i >= 0; i--) {
            length = length << 8 | (bytes[offset + i] & 0xff);
        }
        return length < LEAST || length > Integer.MAX_VALUE - PREFIX - 8 ? -1 : (int) length + PREFIX;
    }

    private MapOutputWriter open() {
        if (closed) {
            throw new IllegalStateException("the task has ended, and its output with it: Comet writes on");
        }
        if (output == null) {
            ShuffleLayout layout = task.handle.layout();
            ShuffleLayout frames =
                    new ShuffleLayout(
                            layout.numMaps(), layout.numPartitions(), layout.candidates(), layout.durability(), NOT_COMPRESSED);
            TaskContext context = task.context;
            InterruptCheck interrupt = Interrupts.ofTask(context);
            MapAttempt writes = new MapAttempt(task.handle.number(), context.partitionId(), attempt);
            output = task.client.get().openWriter(task.handle.caller(), writes, frames, NO_ARENA, interrupt);
        }
        return output;
    }

    /** Commits, and says where the output is. */
    synchronized MapStatus commit() {
        if (committed == null) {
            committed = open().commit();
        }
        return Shim.mapStatus(
                VolumeLocation.of(task.handle.shuffleId(), committed.location()), committed.partitionLengths(), attempt, 0);
    }

    /** Stored bytes per partition; null until the commit. */
    synchronized long[] partitionLengths() {
        return committed == null ? null : committed.partitionLengths();
    }

    synchronized void close() {
        if (!closed) {
            closed = true;
            if (output != null) {
                output.close();
                task.traffic.wrote(output, committed);
            }
        }
    }
}
