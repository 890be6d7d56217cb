package io.forebay.spark.ui;

import org.apache.spark.ui.SparkUI;
import org.apache.spark.ui.SparkUITab;

/** The tab: one page. */
public final class ForebayTab extends SparkUITab {
    public ForebayTab(SparkUI ui) {
        super(ui, "forebay");
        attachPage(new ForebayPage(this, ui.store().store()));
    }
}
