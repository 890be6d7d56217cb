package io.forebay.spark;

import java.util.Optional;
import org.apache.spark.SparkEnv;
import org.apache.spark.shuffle.ShuffleManager;

/** Whether this application's shuffles are on Forebay, for people and for tools. */
public final class ForebayStatus {
    private final boolean active;
    private final String reason;

    private ForebayStatus(boolean active, String reason) {
        this.active = active;
        this.reason = reason;
    }

    static ForebayStatus active() {
        return new ForebayStatus(true, null);
    }

    static ForebayStatus fallback(String reason) {
        return new ForebayStatus(false, reason);
    }

    /**
     * Status of the application with its driver in this JVM; empty if Forebay is not its shuffle
     * manager.
     */
    public static Optional<ForebayStatus> current() {
        SparkEnv env = SparkEnv.get();
        ShuffleManager manager = env == null ? null : env.shuffleManager();
        ForebayShuffleManager ours = ForebayShuffleManager.of(manager);
        DriverApp app = ours == null ? null : ours.app();
        return app == null ? Optional.empty() : Optional.of(app.status());
    }

    /** False if the whole application uses Spark's own shuffle. */
    public boolean isActive() {
        return active;
    }

    /** Reason for the use of Spark's own shuffle; empty if Forebay is used. */
    public Optional<String> fallbackReason() {
        return Optional.ofNullable(reason);
    }

    @Override
    public String toString() {
        return active ? "active" : "fallback to Spark's own shuffle: " + reason;
    }
}
