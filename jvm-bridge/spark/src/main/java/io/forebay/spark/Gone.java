package io.forebay.spark;

import io.forebay.core.ServerView;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.function.Predicate;
import java.util.stream.Collectors;
import org.apache.spark.storage.BlockManagerId;

/**
 * Which places of map outputs are gone, by what is known: decisions only, nothing is asked here.
 *
 * <p>A place is gone if each of its copies is. A copy is gone if it is known that no server has it,
 * not if nothing is known: maps of a place that is gone run again.
 */
final class Gone {
    private Gone() {}

    /**
     * Judged by a task's report, at once: volumes found gone by the task, and servers waited for in
     * vain by the task and silent for the driver too (a server that answers may have one dead
     * disk).
     *
     * @param known what servers said when they were last asked, which may be old
     */
    static Set<BlockManagerId> told(Collection<BlockManagerId> places, GoneNote note, Collection<ServerView> known) {
        Map<String, Set<String>> servers = servers(known);
        Set<String> silent = new HashSet<>(note.silent());
        silent.removeAll(answering(known));
        return places(
                places,
                copy -> {
                    String volume = VolumeLocation.volume(copy);
                    return note.volumes().contains(volume) || silent.contains(VolumeLocation.address(copy)) && serving(servers, volume).isEmpty();
                });
    }

    /**
     * Judged by present answers. A silent server may be starting again; it is gone if a task has
     * waited for it.
     *
     * @param places from before {@code seen} was asked: what was registered later may be on a
     *     volume that came later
     */
    static Set<BlockManagerId> seen(Collection<BlockManagerId> places, Collection<String> waitedFor, Collection<ServerView> seen) {
        Map<String, Set<String>> servers = servers(seen);
        Set<String> answering = answering(seen);
        return places(
                places,
                copy -> {
                    String address = VolumeLocation.address(copy);
                    return serving(servers, VolumeLocation.volume(copy)).isEmpty() && (answering.contains(address) || waitedFor.contains(address));
                });
    }

    private static Set<BlockManagerId> places(Collection<BlockManagerId> places, Predicate<String> gone) {
        Set<BlockManagerId> found = new HashSet<>();
        for (BlockManagerId place : places) {
            String[] copies = VolumeLocation.copies(place);
            boolean all = copies.length > 0;
            for (String copy : copies) {
                all &= gone.test(copy);
            }
            if (all) {
                found.add(place);
            }
        }
        return found;
    }

    private static Set<String> answering(Collection<ServerView> views) {
        return views.stream().filter(ServerView::answers).map(ServerView::address).collect(Collectors.toSet());
    }

    /** Addresses of servers that have a volume. */
    private static Set<String> serving(Map<String, Set<String>> servers, String volume) {
        return servers.getOrDefault(volume, new HashSet<>());
    }

    private static Map<String, Set<String>> servers(Collection<ServerView> views) {
        Map<String, Set<String>> servers = new HashMap<>();
        for (ServerView view : views) {
            for (String volume : view.volumes()) {
                servers.computeIfAbsent(volume, none -> new HashSet<>()).add(view.address());
            }
        }
        return servers;
    }
}
