package io.forebay.spark;

import io.forebay.core.ForebayException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Which failures are about one map output and not about those beside it: a bit has flipped in it. All others cost what is registered under
 * the output's location.
 */
final class SingleLoss {
    /**
     * How the client says that a server has looked at everything it was asked for and has all but this; where it names an output to stand
     * for a volume it says something else. Should its words change, the volume's other outputs are computed again too.
     */
    private static final Pattern MISSING = Pattern.compile("asked twice: attempt ([0-9]{1,20}) of map ([0-9]{1,10}) is missing: ");

    /** Attempts of a stage that are left to Spark, which forgets the outputs of a volume before it tries again. */
    private static final int LEFT = 2;

    private SingleLoss() {}

    /** @param place where the output is, as {@code writerLocation} has it */
    static boolean is(ForebayException failure, int mapIndex, String place) {
        if (!failure.kind().equals("lost") || place == null) {
            return false;
        }
        for (String copy : place.split("\\+")) {
            if (failure.goneVolumes().contains(VolumeLocation.volume(copy))) {
                return false;
            }
        }
        Matcher missing = MISSING.matcher(String.valueOf(failure.getMessage()));
        return missing.find()
                && missing.group(1).equals(Long.toUnsignedString(failure.attempt()))
                && missing.group(2).equals(Integer.toString(mapIndex));
    }

    /**
     * Whether a task may tell so. The driver has Spark forget the output, and may be later than the next attempt of the stage, which then
     * fails for the same: enough attempts must be left for that.
     *
     * @param mapsRunAlone whether it is enough that the map runs again
     * @param most after how many attempts of a stage Spark ends the job
     */
    static boolean mayBeTold(boolean mapsRunAlone, int stageAttempt, int most) {
        return mapsRunAlone && stageAttempt + LEFT < most;
    }
}
