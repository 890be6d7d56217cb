package io.forebay.spark.ui;

import org.apache.spark.SparkConf;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.status.AppHistoryServerPlugin;
import org.apache.spark.status.ElementTrackingStore;
import org.apache.spark.ui.SparkUI;
import org.apache.spark.util.kvstore.KVStore;
import scala.collection.immutable.$colon$colon;
import scala.collection.immutable.Nil$;
import scala.collection.immutable.Seq;

/** Found by the history server when the jar is on its class path. */
public final class ForebayHistoryPlugin implements AppHistoryServerPlugin {
    /**
     * The narrower return type makes the compiler emit the method for Scala 2.12 and for 2.13
     * (SPARK-45314), where Seq is another type.
     */
    @Override
    @SuppressWarnings("unchecked")
    public Seq<SparkListener> createListeners(SparkConf conf, ElementTrackingStore store) {
        SparkListener listener = new StatusListener(conf, store, false);
        return new $colon$colon<>(listener, (scala.collection.immutable.List<SparkListener>) (Object) Nil$.MODULE$);
    }

    @Override
    public void setupUI(SparkUI ui) {
        KVStore store = ui.store().store();
        try {
            if (store.count(StoredApp.class) > 0) {
                ui.attachTab(new ForebayTab(ui));
            }
        } catch (Exception e) {
            throw new IllegalStateException("cannot read what the Forebay tab shows", e);
        }
    }
}
