package io.forebay.core;

import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.attribute.FileAttribute;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Locale;

/**
 * Loads the native library, once per JVM and only when something needs it.
 *
 * <ol>
 *   <li>the file that the system property {@value #PATH} names: nothing else is tried then
 *   <li>the jar's resource for this platform, copied to a file of its own in {@value #DIRECTORY} (default: {@code java.io.tmpdir})
 *       and deleted as soon as it is mapped: nothing stays behind, also when the JVM is killed later
 * </ol>
 *
 * A failure is remembered: every later call fails with the same reason at once. So an executor that cannot load it fails its tasks
 * with one and the same message.
 */
public final class NativeLibrary {
    /** Version of this jar; the library must say the same. */
    public static final String VERSION = "0.1.0";

    /** System property: a library file to be loaded instead of the jar's. */
    public static final String PATH = "forebay.native.path";

    /** System property: directory for the copy of the jar's library. It must allow execution. */
    public static final String DIRECTORY = "forebay.native.dir";

    private static final String FILE = "libforebay_jni.so";

    private static boolean loaded;
    private static NativeLibraryException failure;

    private NativeLibrary() {}

    /**
     * Loads it if that has not been done.
     *
     * @throws NativeLibraryException if it cannot be loaded, now or before
     */
    public static synchronized void load() {
        if (loaded) {
            return;
        }
        if (failure == null) {
            try {
                loadFile();
                checkVersion();
                loaded = true;
                return;
            } catch (NativeLibraryException e) {
                failure = e;
            }
        }
        // A new exception each time: the stack trace is that of the caller, the cause that of the first failure.
        throw new NativeLibraryException(failure.getMessage(), failure);
    }

    /** Whether the library can be used; loads it if that has not been tried. */
    public static boolean isAvailable() {
        try {
            load();
            return true;
        } catch (NativeLibraryException e) {
            return false;
        }
    }

    private static void loadFile() {
        String explicit = System.getProperty(PATH);
        if (explicit != null && !explicit.isEmpty()) {
            load(Paths.get(explicit).toAbsolutePath(), "file named by the system property " + PATH);
            return;
        }
        String resource = resource(System.getProperty("os.name"), System.getProperty("os.arch"));
        try (InputStream in = NativeLibrary.class.getResourceAsStream(resource)) {
            if (in == null) {
                throw failed("resource " + resource, "it is not in this jar: use a jar that was built for this platform, or set " + PATH, null);
            }
            Path copy = copy(in, resource);
            try {
                load(copy, "resource " + resource + ", copied to a file,");
            } finally {
                Files.deleteIfExists(copy);
            }
        } catch (IOException e) {
            throw failed("resource " + resource, e.toString(), e);
        }
    }

    private static Path copy(InputStream in, String resource) {
        String directory = System.getProperty(DIRECTORY);
        if (directory == null || directory.isEmpty()) {
            directory = System.getProperty("java.io.tmpdir");
        }
        Path copy = null;
        try {
            Path parent = Files.createDirectories(Paths.get(directory).toAbsolutePath());
            // Nobody but us may change the file between copy and load.
            FileAttribute<?> ours = PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------"));
            copy = Files.createTempFile(parent, "forebay-", ".so", ours);
            try (OutputStream out = Files.newOutputStream(copy)) {
                byte[] buffer = new byte[1 << 16];
                for (int n; (n = in.read(buffer)) > 0; ) {
                    out.write(buffer, 0, n);
                }
            }
            return copy;
        } catch (IOException | UnsupportedOperationException e) {
            if (copy != null) {
                copy.toFile().delete();
            }
            throw failed(
                    "resource " + resource + ", to be copied to " + directory,
                    e + ": set " + DIRECTORY + " to a directory that can be written and has room",
                    e);
        }
    }

    private static void load(Path file, String what) {
        String named = what + " " + file;
        if (!new File(file.toString()).canRead()) {
            throw failed(named, "there is no such file, or it cannot be read", null);
        }
        try {
            System.load(file.toString());
        } catch (UnsatisfiedLinkError | SecurityException e) {
            throw failed(named, e.getMessage() + remedy(String.valueOf(e.getMessage())), e);
        }
    }

    private static String remedy(String message) {
        if (message.contains("failed to map segment") || message.contains("Operation not permitted")) {
            return ": the directory is mounted noexec; set " + DIRECTORY + " to one that allows execution";
        }
        if (message.contains("GLIBC_")) {
            return ": the library was built for a newer glibc than this machine has";
        }
        if (message.contains("already loaded in another classloader")) {
            return ": Forebay's classes are loaded twice in this JVM; put the jar on one class path only";
        }
        return "";
    }

    private static void checkVersion() {
        String version;
        try {
            version = Native.version();
        } catch (UnsatisfiedLinkError e) {
            throw failed("library that was loaded", "it is not Forebay's: " + e.getMessage(), e);
        }
        if (!VERSION.equals(version)) {
            throw failed(
                    "library that was loaded",
                    "its version is " + version + ", this jar's is " + VERSION + ": use the library that belongs to the jar",
                    null);
        }
    }

    private static NativeLibraryException failed(String what, String why, Throwable cause) {
        String platform = System.getProperty("os.name") + " " + System.getProperty("os.arch");
        return new NativeLibraryException(
                "Forebay's native library cannot be loaded on " + platform + ": tried the " + what + " but " + why, cause);
    }

    /** Where the jar has the library for a platform. */
    static String resource(String os, String arch) {
        String family = os.replaceAll("\\W+", "").toLowerCase(Locale.ROOT);
        String machine = arch;
        if (arch.equals("amd64") || arch.equals("x86-64") || arch.equals("x86_64")) {
            machine = "x86_64";
        } else if (arch.equals("arm64")) {
            machine = "aarch64";
        }
        return "/io/forebay/native/" + family + "-" + machine + "/" + FILE;
    }
}
