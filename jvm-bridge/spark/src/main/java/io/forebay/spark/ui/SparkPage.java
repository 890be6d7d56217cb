package io.forebay.spark.ui;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import org.apache.spark.ui.SparkUITab;
import org.apache.spark.ui.UIUtils$;
import scala.Function0;
import scala.collection.immutable.Seq;
import scala.xml.Node;
import scala.xml.Unparsed;

/**
 * Spark's frame around a page of ours. Its method has another request class and more arguments on
 * newer lines.
 */
final class SparkPage {
    private static final String FRAME = "headerSparkPage";

    /**
     * Request, title, content, tab: common to all lines. Later arguments have defaults.
     */
    private static final int COMMON = 4;

    private SparkPage() {}

    /** The page; its markup is escaped already. */
    @SuppressWarnings("unchecked")
    static Seq<Node> around(Object request, String title, String markup, SparkUITab tab) {
        // A node is a sequence of itself. Unparsed, because we make text and not trees.
        Function0<Object> content = () -> new Unparsed(markup);
        try {
            Method frame = frame();
            Object[] arguments = new Object[frame.getParameterCount()];
            arguments[0] = request;
            arguments[1] = title;
            arguments[2] = content;
            arguments[3] = tab;
            for (int i = COMMON; i < arguments.length; i++) {
                // How Scala names defaults. SPARK-55766 and others (4.x) added some.
                arguments[i] = UIUtils$.class.getMethod(FRAME + "$default$" + (i + 1)).invoke(UIUtils$.MODULE$);
            }
            return (Seq<Node>) frame.invoke(UIUtils$.MODULE$, arguments);
        } catch (InvocationTargetException e) {
            throw new IllegalStateException("Spark cannot render its frame", e.getCause());
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException("this version of Spark has another frame for its pages (UIUtils." + FRAME + ")", e);
        }
    }

    private static Method frame() throws NoSuchMethodException {
        for (Method method : UIUtils$.class.getMethods()) {
            if (method.getName().equals(FRAME)) {
                return method;
            }
        }
        throw new NoSuchMethodException(FRAME);
    }
}
