package io.forebay.spark;

import io.forebay.core.ForebayClient;
import io.forebay.core.NativeLibrary;

/** The client of this JVM, made when it is first needed: a driver that shuffles nothing loads no library. */
final class ClientHolder {
    private final ForebayConf conf;
    private ForebayClient client;
    private boolean closed;

    ClientHolder(ForebayConf conf) {
        this.conf = conf;
    }

    synchronized ForebayClient get() {
        if (closed) {
            throw new IllegalStateException("Forebay is stopped in this JVM: its SparkContext or executor is shutting down");
        }
        if (client == null) {
            // A property that somebody set by hand for this JVM knows better than a key for all.
            if (conf.nativeDir().isPresent() && System.getProperty(NativeLibrary.DIRECTORY) == null) {
                System.setProperty(NativeLibrary.DIRECTORY, conf.nativeDir().get());
            }
            client = ForebayClient.open(conf.clientSettings());
        }
        return client;
    }

    synchronized void close() {
        closed = true;
        if (client != null) {
            client.close();
            client = null;
        }
    }
}
