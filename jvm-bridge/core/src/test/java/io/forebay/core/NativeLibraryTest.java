package io.forebay.core;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A library is loaded once per class loader, so each test that loads in its own way uses a class loader of its own. */
class NativeLibraryTest {
    private static final String LIBRARY = System.getProperty(NativeLibrary.PATH);

    @TempDir Path directory;

    @AfterEach
    void restoreProperties() {
        System.setProperty(NativeLibrary.PATH, LIBRARY);
        System.clearProperty(NativeLibrary.DIRECTORY);
    }

    @Test
    void theLibraryAndTheJarAndTheProjectHaveOneVersion() {
        NativeLibrary.load();
        assertEquals(NativeLibrary.VERSION, Native.version());
        assertEquals(System.getProperty("forebay.test.version"), NativeLibrary.VERSION);
    }

    @Test
    void theResourceIsCopiedLoadedAndDeleted() throws Exception {
        System.clearProperty(NativeLibrary.PATH);
        Path resources = resources(Files.readAllBytes(Paths.get(LIBRARY)));
        Path copies = directory.resolve("copies");
        System.setProperty(NativeLibrary.DIRECTORY, copies.toString());
        load(resources);
        assertTrue(isEmpty(copies), "the copy is left behind");
    }

    @Test
    void aPlatformWithoutALibraryIsNamed() {
        System.clearProperty(NativeLibrary.PATH);
        String message = failure(directory).getMessage();
        assertTrue(message.contains(NativeLibrary.resource(System.getProperty("os.name"), System.getProperty("os.arch"))), message);
        assertTrue(message.contains(NativeLibrary.PATH), message);
    }

    @Test
    void aFileThatIsNoLibraryIsNamedAndItsCopyIsDeleted() throws Exception {
        System.clearProperty(NativeLibrary.PATH);
        Path resources = resources("no library".getBytes(StandardCharsets.UTF_8));
        Path copies = directory.resolve("copies");
        System.setProperty(NativeLibrary.DIRECTORY, copies.toString());
        String message = failure(resources).getMessage();
        assertTrue(message.contains(copies.toString()), message);
        assertTrue(isEmpty(copies), "the copy is left behind");
    }

    @Test
    void aFileThatIsNotThereIsNamedAndNothingElseIsTried() {
        System.setProperty(NativeLibrary.PATH, directory.resolve("absent.so").toString());
        String message = failure(directory).getMessage();
        assertTrue(message.contains("absent.so") && message.contains(NativeLibrary.PATH), message);
    }

    @Test
    void aDirectoryThatCannotBeUsedIsNamedWithItsProperty() throws Exception {
        System.clearProperty(NativeLibrary.PATH);
        Path file = Files.createFile(directory.resolve("file"));
        System.setProperty(NativeLibrary.DIRECTORY, file.toString());
        String message = failure(resources(new byte[] {1})).getMessage();
        assertTrue(message.contains(file.toString()) && message.contains(NativeLibrary.DIRECTORY), message);
    }

    @Test
    void aFailureIsRememberedWithItsReason() throws Exception {
        System.setProperty(NativeLibrary.PATH, directory.resolve("absent.so").toString());
        try (URLClassLoader loader = loader(directory)) {
            Throwable first = assertThrows(InvocationTargetException.class, () -> load(loader)).getCause();
            System.setProperty(NativeLibrary.PATH, LIBRARY);
            Throwable second = assertThrows(InvocationTargetException.class, () -> load(loader)).getCause();
            assertEquals(first.getMessage(), second.getMessage());
        }
    }

    @Test
    void platformsHaveTheirDirectory() {
        assertEquals("/io/forebay/native/linux-x86_64/libforebay_jni.so", NativeLibrary.resource("Linux", "amd64"));
        assertEquals("/io/forebay/native/linux-aarch64/libforebay_jni.so", NativeLibrary.resource("Linux", "aarch64"));
        assertEquals("/io/forebay/native/macosx-aarch64/libforebay_jni.so", NativeLibrary.resource("Mac OS X", "arm64"));
    }

    private Path resources(byte[] library) throws IOException {
        Path root = directory.resolve("resources");
        String resource = NativeLibrary.resource(System.getProperty("os.name"), System.getProperty("os.arch"));
        Path file = root.resolve(resource.substring(1));
        Files.createDirectories(file.getParent());
        Files.write(file, library);
        return root;
    }

    private Throwable failure(Path resources) {
        Throwable thrown = assertThrows(InvocationTargetException.class, () -> load(resources)).getCause();
        assertEquals(NativeLibraryException.class.getName(), thrown.getClass().getName());
        return thrown;
    }

    private static void load(Path resources) throws Exception {
        try (URLClassLoader loader = loader(resources)) {
            load(loader);
        }
    }

    private static void load(ClassLoader loader) throws Exception {
        loader.loadClass(NativeLibrary.class.getName()).getMethod("load").invoke(null);
    }

    private static URLClassLoader loader(Path resources) throws IOException {
        URL classes = NativeLibrary.class.getProtectionDomain().getCodeSource().getLocation();
        return new URLClassLoader(new URL[] {classes, resources.toUri().toURL()}, null);
    }

    private static boolean isEmpty(Path directory) throws IOException {
        try (Stream<Path> files = Files.list(directory)) {
            return !files.findAny().isPresent();
        }
    }
}
