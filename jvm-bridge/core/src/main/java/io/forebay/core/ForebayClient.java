package io.forebay.core;

import java.util.Collection;
import java.util.List;
import java.util.Objects;

/**
 * Connections to the servers; one client per JVM is enough. Thread-safe. Closing the client ends
 * the leases in its care; open writers and readers go on until closed.
 */
public final class ForebayClient implements AutoCloseable {
    private final long id;

    private ForebayClient(long id) {
        this.id = id;
    }

    /**
     * Makes a client; loads the native library the first time. Does no I/O.
     *
     * @throws NativeLibraryException if the library cannot be loaded
     * @throws ForebayException {@code invalid}, naming the setting that cannot be
     */
    public static ForebayClient open(ClientSettings settings) {
        NativeLibrary.load();
        return new ForebayClient(Native.clientOpen(settings.json(), settings.encryptionKey()));
    }

    // ---- driver ----

    /**
     * Registers the app with all servers that answer, at least one, and renews the lease until the
     * app is closed.
     */
    public void openApp(Caller caller, InterruptCheck interrupt) {
        call(Native.appOpen(id, caller.app, caller.token, caller.leaseMillis), interrupt);
    }

    /**
     * The token with which tasks of an open app call the servers: the newest that the servers have
     * made for its driver, or, at servers that ask nobody who they are, the driver's own. Asks no
     * server.
     */
    public String appToken(String app) {
        return Native.appToken(id, app);
    }

    /**
     * Chooses the candidate servers of a shuffle of an open app, in the order in which map indexes
     * go over them. Asks no server.
     */
    public String[] placeShuffle(String app, int shuffle, int numMaps, int numPartitions) {
        return Native.appPlace(id, app, shuffle, numMaps, numPartitions);
    }

    /**
     * Descriptions of an open app's servers, seconds old. Asks no server.
     */
    public List<ServerView> servers(String app) {
        return ServerView.of(Native.appServers(id, app));
    }

    /**
     * Asks all servers, and the servers at these addresses, for their descriptions; takes a second
     * at most.
     */
    public List<ServerView> look(String app, Collection<String> addresses, InterruptCheck interrupt) {
        long call = Native.appLook(id, app, addresses.toArray(new String[0]));
        try {
            Wait.until(interrupt, timeout -> Native.callWait(call, timeout));
            return ServerView.of(Native.callLines(call));
        } finally {
            Native.callClose(call);
        }
    }

    /**
     * Deletes a shuffle on every server that can be reached now; the lease takes care of the
     * others.
     */
    public void deleteShuffle(String app, int shuffle, InterruptCheck interrupt) {
        call(Native.appDeleteShuffle(id, app, shuffle), interrupt);
    }

    /** The same without waiting for the servers' answers. */
    public void deleteShuffleInBackground(String app, int shuffle) {
        Native.callClose(Native.appDeleteShuffle(id, app, shuffle));
    }

    /** Deletes the app on every reachable server and stops renewing its lease. */
    public void closeApp(String app, InterruptCheck interrupt) {
        call(Native.appClose(id, app), interrupt);
    }

    private static void call(long call, InterruptCheck interrupt) {
        try {
            Wait.until(interrupt, timeout -> Native.callWait(call, timeout));
        } finally {
            Native.callClose(call);
        }
    }

    // ---- tasks ----

    /**
     * Starts the output of one map attempt; connects in the background.
     *
     * @param arenaBytes size of the arena, which is native memory
     */
    public MapOutputWriter openWriter(
            Caller caller, MapAttempt output, ShuffleLayout layout, long arenaBytes, InterruptCheck interrupt) {
        Objects.requireNonNull(interrupt, "interrupt");
        long writer =
                Native.writerOpen(
                        id,
                        caller.app,
                        caller.token,
                        caller.leaseMillis,
                        output.shuffle,
                        layout.numMaps,
                        layout.numPartitions,
                        output.mapIndex,
                        output.attempt,
                        layout.durability,
                        layout.candidates,
                        layout.compression,
                        arenaBytes);
        try {
            return new MapOutputWriter(writer, Native.writerArena(writer), arenaBytes, interrupt);
        } catch (RuntimeException | Error e) {
            Native.writerClose(writer);
            throw e;
        }
    }

    /**
     * Starts to read what the plan names.
     *
     * @param windowBytes most bytes in flight over all servers, or 0 for the client's setting
     */
    public BlockReader openReader(Caller caller, int shuffle, ReadPlan plan, long windowBytes, InterruptCheck interrupt) {
        Objects.requireNonNull(interrupt, "interrupt");
        return new BlockReader(plan.open(id, caller, shuffle, windowBytes), interrupt);
    }

    @Override
    public void close() {
        Native.clientClose(id);
    }
}
