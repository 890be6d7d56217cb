package io.forebay.spark;

import java.io.IOException;
import java.util.Collections;
import org.apache.comet.CometExecIterator;
import org.apache.comet.CometExecIterator$;
import org.apache.comet.serde.OperatorOuterClass.Operator;
import org.apache.comet.serde.OperatorOuterClass.PartitionWriter;
import org.apache.comet.serde.OperatorOuterClass.RssPartitionWriter;
import org.apache.comet.shuffle.ShufflePartitionPusher;
import org.apache.spark.TaskContext;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.shuffle.ShuffleWriter;
import org.apache.spark.sql.comet.CometExec$;
import org.apache.spark.sql.comet.CometMetricNode;
import org.apache.spark.sql.comet.CometScalarSubquery;
import org.apache.spark.sql.comet.NativeExecContext;
import org.apache.spark.sql.comet.PlanDataInjector$;
import org.apache.spark.sql.comet.execution.shuffle.CometNativeShuffleInputIterator;
import org.apache.spark.sql.comet.execution.shuffle.CometNativeShuffleWriter;
import org.apache.spark.sql.comet.execution.shuffle.CometShuffleDependency;
import org.apache.spark.sql.comet.execution.shuffle.NativeShuffleSpec;
import org.apache.spark.sql.execution.ScalarSubquery;
import org.apache.spark.sql.execution.metric.SQLMetric;
import org.apache.spark.sql.execution.metric.SQLMetric$;
import org.apache.spark.util.TaskCompletionListener;
import scala.Option;
import scala.Product2;
import scala.collection.Iterator;
import scala.collection.immutable.Map;
import scala.collection.immutable.Map$;
import scala.jdk.javaapi.CollectionConverters;
import scala.runtime.BoxedUnit;

/**
 * Writes the output of one map attempt of Comet's native exchange: the plan of the stage, with its
 * end replaced by Comet's writer for remote shuffles, runs in Comet, which hands over frames.
 */
final class CometNativeWriter<K, V> extends ShuffleWriter<K, V> implements ShufflePartitionPusher {
    /** Counters of the native writer that the exchange shows. */
    private static final String[] SHOWN = {
        "elapsed_compute", "encode_time", "repart_time", "interleave_time", "input_batches", "spill_count", "spilled_bytes", "memory_spilled_bytes"
    };

    private final CometShuffleDependency<K, V, ?> dependency;
    private final CometOutput output;
    private final TaskContext context;
    private final ShuffleWriteMetricsReporter metrics;

    CometNativeWriter(
            CometShuffleDependency<K, V, ?> dependency, CometOutput output, TaskContext context, ShuffleWriteMetricsReporter metrics) {
        this.dependency = dependency;
        this.output = output;
        this.context = context;
        this.metrics = metrics;
    }

    /** Called by Comet with whole frames, also on a thread of its own. */
    @Override
    public void pushPartitionData(int partition, byte[] bytes, int length) throws IOException {
        output.frames(partition, bytes, 0, length);
    }

    @Override
    public void write(Iterator<Product2<K, V>> records) throws IOException {
        NativeShuffleSpec spec = dependency.nativeShuffleSpec().get();
        // Comet's settings, as they were when the query was planned.
        spec.sqlConf()
                .withConf(
                        () -> {
                            run(spec, (CometNativeShuffleInputIterator) (Iterator<?>) records);
                            return BoxedUnit.UNIT;
                        });
    }

    private void run(NativeShuffleSpec spec, CometNativeShuffleInputIterator input) {
        NativeExecContext native_ = spec.execContext();
        Operator plan = remote(spec);
        if (native_.commonByKey().nonEmpty()) {
            plan =
                    PlanDataInjector$.MODULE$.injectPlanDataForShuffle(
                            dependency.shuffleId(), plan, native_.commonByKey(), input.planDataByKey());
        }
        SQLMetric rows = new SQLMetric("outputRows", SQLMetric$.MODULE$.$lessinit$greater$default$2());
        SQLMetric time = new SQLMetric("writeTime", SQLMetric$.MODULE$.$lessinit$greater$default$2());
        CometMetricNode counters =
                new CometMetricNode(
                        with(with(shown(), "output_rows", rows), "write_time", time),
                        CollectionConverters.asScala(Collections.singletonList(spec.childMetricNode())).toSeq());
        if (native_.hasScanInput()) {
            counters.reportScanInputMetrics(context);
        }
        CometExecIterator batches =
                new CometExecIterator(
                        CometExec$.MODULE$.newIterId(),
                        input.inputObjects(),
                        dependency.outputAttributes().length(),
                        CometExec$.MODULE$.serializeNativePlan(plan),
                        counters,
                        dependency.numParts(),
                        input.partitionIndex(),
                        native_.broadcastedHadoopConfForEncryption(),
                        native_.encryptedFilePaths(),
                        input.shuffleBlockIterators(),
                        CometExecIterator$.MODULE$.$lessinit$greater$default$11(),
                        Option.<ShufflePartitionPusher>apply(this),
                        CometExecIterator$.MODULE$.$lessinit$greater$default$13(),
                        false,
                        CometExecIterator$.MODULE$.$lessinit$greater$default$15());
        subqueries(native_, batches.id());
        CometNativeShuffleWriter.drainAndClose(
                eager(batches),
                () -> {
                    batches.close();
                    return BoxedUnit.UNIT;
                });
        metrics.incRecordsWritten(Long.parseLong(String.valueOf(rows.value())));
        metrics.incWriteTime(Long.parseLong(String.valueOf(time.value())));
    }

    /** A writer to files drains the same. */
    @SuppressWarnings("unchecked")
    private static Iterator<Object> eager(CometExecIterator batches) {
        return (Iterator<Object>) (Iterator<?>) batches;
    }

    /** Comet's own plan, with another end. */
    private Operator remote(NativeShuffleSpec spec) {
        CometNativeShuffleWriter<K, V> comets =
                new CometNativeShuffleWriter<>(
                        spec,
                        dependency.outputPartitioning().get(),
                        dependency.outputAttributes(),
                        dependency.shuffleWriteMetrics(),
                        dependency.numParts(),
                        dependency.shuffleId(),
                        context.taskAttemptId(),
                        context,
                        metrics,
                        dependency.rangePartitionBounds(),
                        Option.empty());
        Operator.Builder plan = comets.buildUnifiedPlan("").toBuilder();
        plan.getShuffleWriterBuilder()
                .clearOutputDataFile()
                .setPartitionWriter(PartitionWriter.newBuilder().setRss(RssPartitionWriter.getDefaultInstance()).build());
        return plan.build();
    }

    private Map<String, SQLMetric> shown() {
        Map<String, SQLMetric> shown = Map$.MODULE$.empty();
        for (String name : SHOWN) {
            Option<SQLMetric> counter = dependency.shuffleWriteMetrics().get(name);
            if (counter.isDefined()) {
                shown = with(shown, name, counter.get());
            }
        }
        return with(shown, "data_size", dependency.shuffleWriteMetrics().apply("dataSize"));
    }

    @SuppressWarnings("unchecked")
    private static Map<String, SQLMetric> with(Map<String, SQLMetric> counters, String name, SQLMetric counter) {
        return (Map<String, SQLMetric>) (Object) counters.updated(name, counter);
    }

    /** Native code asks for them by the iterator's number. */
    private void subqueries(NativeExecContext native_, long id) {
        for (ScalarSubquery subquery : CollectionConverters.asJava(native_.subqueries())) {
            CometScalarSubquery.setSubquery(id, subquery);
            context.addTaskCompletionListener((TaskCompletionListener) ended -> CometScalarSubquery.removeSubquery(id, subquery));
        }
    }

    @Override
    public Option<MapStatus> stop(boolean success) {
        try {
            if (!success) {
                return Option.empty();
            }
            long start = System.nanoTime();
            MapStatus status = output.commit();
            metrics.incWriteTime(System.nanoTime() - start);
            long bytes = 0;
            for (long length : output.partitionLengths()) {
                bytes += length;
            }
            metrics.incBytesWritten(bytes);
            return Option.apply(status);
        } finally {
            output.close();
        }
    }

    @Override
    public long[] getPartitionLengths() {
        return output.partitionLengths();
    }
}
