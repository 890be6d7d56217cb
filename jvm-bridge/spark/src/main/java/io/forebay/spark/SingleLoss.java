package io.forebay.spark;

import io.forebay.core.ForebayException;

/**
 * Tells failures of single map outputs (flipped bits) from failures of a whole location, which cost
 * everything registered there.
 */
final class SingleLoss {
    /**
     * Attempts of a stage left to Spark, which forgets a volume's outputs before the next attempt.
     */
    private static final int LEFT = 2;

    private SingleLoss() {}

    /** @param place where the output is, as {@code writerLocation} has it */
    static boolean is(ForebayException failure, int mapIndex, String place) {
        if (place == null) {
            return false;
        }
        for (String copy : place.split("\\+")) {
            if (failure.goneVolumes().contains(VolumeLocation.volume(copy))) {
                return false;
            }
        }
        int count = 0;
        boolean named = false;
        for (ForebayException.Lost lost : failure.lost()) {
            count++;
            named |= lost.mapIndex() == mapIndex && lost.attempt() == failure.attempt();
        }
        // Too many to be told one by one are told as their place.
        return named && count <= GoneNote.MOST_LOST;
    }

    /**
     * Whether a task may tell so. The driver has Spark forget the outputs, and may be later than
     * the next attempt of the stage, which then fails for the same: enough attempts must be left
     * for that.
     *
     * @param mapsRunAlone whether it is enough that the map runs again
     * @param most after how many attempts of a stage Spark ends the job
     */
    static boolean mayBeTold(boolean mapsRunAlone, int stageAttempt, int most) {
        return mapsRunAlone && stageAttempt + LEFT < most;
    }
}
