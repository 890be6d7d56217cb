package io.forebay.spark.ui;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.junit.jupiter.api.Test;

class TaskReportsTest {
    private static ShuffleTraffic task(int shuffle) {
        ShuffleTraffic task = new ShuffleTraffic();
        task.shuffle = shuffle;
        return task;
    }

    @Test
    void whatTasksAddReachesTheDriverOnceAndStaysNowhere() {
        List<Integer> told = new ArrayList<>();
        TaskReports driver = new TaskReports(task -> told.add(task.shuffle));
        for (int number = 1; number <= 2; number++) {
            // What Spark sends with a task, and what comes back with its result.
            TaskReports executor = (TaskReports) driver.copyAndReset();
            assertTrue(executor.isZero());
            executor.add(task(10 * number));
            executor.add(task(10 * number + 1));
            driver.merge(executor);
        }
        assertEquals("[10, 11, 20, 21]", told.toString());
        assertTrue(driver.isZero());
    }

    @Test
    void aCopyKeepsWhatItHadWhenTheOriginalGoesOn() {
        TaskReports reports = new TaskReports(null);
        reports.add(task(1));
        TaskReports copy = reports.copy();
        reports.add(task(2));
        reports.reset();
        assertEquals(1, copy.value().size());
        assertEquals(Collections.emptyList(), reports.value());
    }

    /** As many as a task may read inputs; a copy of all for each of them would take hours. */
    @Test
    void aHundredThousandReportsAreAddedInNoTime() {
        TaskReports reports = new TaskReports(null);
        ShuffleTraffic task = task(1);
        org.junit.jupiter.api.Assertions.assertTimeoutPreemptively(
                java.time.Duration.ofSeconds(20),
                () -> {
                    for (int i = 0; i < 1_000_000; i++) {
                        reports.add(task);
                    }
                });
        assertEquals(1_000_000, reports.value().size());
    }
}
