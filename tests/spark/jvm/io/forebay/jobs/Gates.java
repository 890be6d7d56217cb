package io.forebay.jobs;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import org.apache.spark.TaskContext;

/**
 * Places at which a task waits for the test, so that events meanwhile happen surely between two
 * lines of the task. Both sides see one folder; one file in it tells of the task's arrival, another
 * lets it go on.
 */
final class Gates {
  private static final long PATIENCE_MILLIS = 300_000;

  private Gates() {}

  /**
   * Says that this task is at the gate, and waits for the file {@code open-<gate>}; without a
   * folder there are no gates.
   */
  static void pass(String folder, String gate) {
    if (folder == null) {
      return;
    }
    TaskContext task = TaskContext.get();
    said(folder, "at-" + gate + "-" + task.partitionId());
    Path open = Paths.get(folder, "open-" + gate);
    for (long end = System.currentTimeMillis() + PATIENCE_MILLIS; !Files.exists(open); ) {
      if (System.currentTimeMillis() > end) {
        throw new IllegalStateException("gate " + gate + " was not opened in " + PATIENCE_MILLIS + " ms");
      }
      task.killTaskIfInterrupted();
      try {
        Thread.sleep(10);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
    }
  }

  /** Leaves a file of that name. */
  static void said(String folder, String what) {
    if (folder == null) {
      return;
    }
    try {
      Files.createFile(Paths.get(folder, what));
    } catch (FileAlreadyExistsException e) {
      // Said before, by another attempt.
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Whether this is the first attempt of the first attempt of its stage. */
  static boolean first() {
    TaskContext task = TaskContext.get();
    return task.stageAttemptNumber() == 0 && task.attemptNumber() == 0;
  }
}
