package io.forebay.spark;

import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;

/**
 * Servers silent for so long that a reader would give them up: servers one reader has waited for in
 * vain, and servers the driver has not heard of for as long. Readers wait for several servers at a
 * time and report the first only.
 *
 * <p>Book-keeping alone; times are {@code System.nanoTime}.
 */
final class Silence {
    /**
     * Delay of the driver's notice of a silent server: questions every 10 s, and a look at the
     * answers every 10 s.
     */
    private static final long LATE_MILLIS = 25_000;

    private final long patienceNanos;

    /** Since when, by address. */
    private final Map<String, Long> since = new HashMap<>();

    private final Set<String> heardOf = new HashSet<>();
    private final Set<String> waitedFor = new HashSet<>();

    Silence(long retryMillis) {
        long late = retryMillis > 2 * LATE_MILLIS ? LATE_MILLIS : 0;
        this.patienceNanos = TimeUnit.MILLISECONDS.toNanos(retryMillis - late);
    }

    /** Notes these answers; the state of other servers is unknown. */
    synchronized void answering(Collection<String> addresses, long now) {
        Set<String> silent = new HashSet<>(heardOf);
        silent.removeAll(addresses);
        asked(addresses, silent, now);
    }

    /** Notes answering and silent servers. */
    synchronized void asked(Collection<String> answering, Collection<String> silent, long now) {
        heardOf.addAll(answering);
        since.keySet().removeAll(answering);
        waitedFor.removeAll(answering);
        silent.forEach(address -> since.putIfAbsent(address, now));
    }

    /** A reader has waited for these in vain. */
    synchronized void waitedFor(Collection<String> addresses) {
        waitedFor.addAll(addresses);
    }

    /** Servers given up. */
    synchronized Set<String> forGood(long now) {
        Set<String> found = new HashSet<>(waitedFor);
        since.forEach(
                (address, then) -> {
                    if (now - then >= patienceNanos) {
                        found.add(address);
                    }
                });
        return found;
    }
}
