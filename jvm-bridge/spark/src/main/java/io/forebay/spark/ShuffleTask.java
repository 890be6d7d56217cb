package io.forebay.spark;

import org.apache.spark.TaskContext;

/** One task at one shuffle: the common part of writing and reading. */
final class ShuffleTask<K, V, C> {
    final ForebayShuffleHandle<K, V, C> handle;
    final TaskContext context;
    final ClientHolder client;
    final Traffic traffic;

    ShuffleTask(ForebayShuffleHandle<K, V, C> handle, TaskContext context, ClientHolder client, Traffic traffic) {
        this.handle = handle;
        this.context = context;
        this.client = client;
        this.traffic = traffic;
        // Before anybody asks for the client.
        client.speak(handle.tls());
    }
}
