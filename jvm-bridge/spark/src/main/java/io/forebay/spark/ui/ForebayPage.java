package io.forebay.spark.ui;

import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import org.apache.spark.ui.WebUIPage;
import org.apache.spark.util.kvstore.KVStore;
import scala.collection.immutable.Seq;
import scala.xml.Node;

/**
 * The page of the tab: this application's data on its servers, and failures.
 *
 * <p>Spark calls one of two methods, depending on the line (SPARK-45522, 4.0: Jetty 10 to 11,
 * {@code javax.servlet} to {@code jakarta.servlet}); the other names a missing class, which only
 * matters to a look-up of that method. The narrower return type makes the compiler emit the first
 * one for Scala 2.12 as well, with its different Seq.
 */
public final class ForebayPage extends WebUIPage {
    private final ForebayTab tab;
    private final KVStore store;

    ForebayPage(ForebayTab tab, KVStore store) {
        super("");
        this.tab = tab;
        this.store = store;
    }

    /** Spark 3.5. */
    @Override
    public Seq<Node> render(javax.servlet.http.HttpServletRequest request) {
        return SparkPage.around(request, "Forebay", content(), tab);
    }

    /** Spark 4.0 and newer. */
    public Seq<Node> render(jakarta.servlet.http.HttpServletRequest request) {
        return SparkPage.around(request, "Forebay", content(), tab);
    }

    private String content() {
        List<StoredApp> apps = all(StoredApp.class);
        if (apps.isEmpty()) {
            return "<p>This application has registered no shuffle yet.</p>";
        }
        return new Content(apps.get(0), all(StoredServer.class), all(StoredShuffle.class), all(StoredFailure.class)).html();
    }

    private <T> List<T> all(Class<T> type) {
        List<T> all = new ArrayList<>();
        try {
            store.view(type).forEach((Consumer<T>) all::add);
        } catch (Exception e) {
            throw new IllegalStateException("cannot read " + type.getSimpleName() + " from Spark's store", e);
        }
        return all;
    }
}
