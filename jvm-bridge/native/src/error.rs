//! Every failure and every panic becomes one Java exception, `io.forebay.core.ForebayException`.
//!
//! The exception carries the kind and, where there is one, the lost output. If the exception cannot
//! be made (no memory, class not found), a `RuntimeException` with the same message is thrown
//! instead; a failed call never returns normally.

use std::any::Any;

use jni::{
    Env,
    errors::{Error as JniError, ErrorPolicy, Result as JniResult},
    jni_sig, jni_str,
    objects::{JObject, JString, JThrowable},
    refs::Reference,
    strings::JNIString,
};
use shuffle_client::{Error, Kind};

/// Why a native method fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The client's error, or one of our own checks.
    #[error(transparent)]
    Client(#[from] Error),
    /// The JVM refused something.
    #[error("the JVM refused a call: {0}")]
    Jni(#[from] JniError),
}

/// An invalid argument, with its remedy.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, message)
}

/// How native methods fail: the `ErrorPolicy` of all of them.
pub(crate) struct Throw;

impl<T: Default> ErrorPolicy<T, Failure> for Throw {
    type Captures<'unowned: 'method, 'method> = ();

    fn on_error<'unowned: 'method, 'method>(
        env: &mut Env<'unowned>,
        (): &mut (),
        failure: Failure,
    ) -> JniResult<T> {
        match failure {
            Failure::Client(error) => throw(env, &error),
            Failure::Jni(error) => throw(
                env,
                &Error::new(Kind::Internal, Failure::Jni(error).to_string()),
            ),
        }
        Ok(T::default())
    }

    fn on_panic<'unowned: 'method, 'method>(
        env: &mut Env<'unowned>,
        (): &mut (),
        payload: Box<dyn Any + Send>,
    ) -> JniResult<T> {
        let message = format!("panic in native code: {}", panic_message(payload.as_ref()));
        // Dropping a payload may panic, and this is the last frame before the JVM. The panic hook
        // has logged the place.
        std::mem::forget(payload);
        throw(
            env,
            &Error::new(
                Kind::Internal,
                format!("{message}; this is a bug, please report it"),
            ),
        );
        Ok(T::default())
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "no message"
    }
}

/// Leaves an exception pending in the calling thread. An exception already pending is the cause,
/// and stays.
fn throw(env: &mut Env<'_>, error: &Error) {
    if env.exception_check() {
        return;
    }
    if let Err(failure) = try_throw(env, error)
        && !env.exception_check()
    {
        tracing::error!(%failure, %error, "cannot throw a ForebayException");
        let message = JNIString::new(format!("{}: {}", error.kind, error.message));
        // Nothing is left to do if this fails too: an exception is pending whenever the JVM can
        // make one.
        let _ = env.throw_new(jni_str!("java/lang/RuntimeException"), message);
    }
}

fn try_throw(env: &mut Env<'_>, error: &Error) -> JniResult<()> {
    let class = env.find_class(jni_str!("io/forebay/core/ForebayException"))?;
    let kind = JString::from_str(env, error.kind.name())?;
    let message = JString::from_str(env, &error.message)?;
    let (volume, map_index, attempt) = match error.output {
        None => (JObject::null(), -1, -1),
        Some(output) => {
            let volume = JString::from_str(env, output.volume.to_string())?.into();
            // Both come from Java, where they are an int and a long.
            (
                volume,
                output.map_index.0.cast_signed(),
                output.attempt.0.cast_signed(),
            )
        }
    };
    // One string for the whole list: a frame has room for few references.
    let gone: Vec<_> = error.gone.iter().map(ToString::to_string).collect();
    let gone = JString::from_str(env, gone.join(","))?;
    let lost = error
        .lost
        .iter()
        .map(|lost| format!("{}/{}/{}", lost.map_index, lost.attempt, lost.volume));
    let lost = JString::from_str(env, lost.collect::<Vec<_>>().join(","))?;
    let exception = env.new_object(
        class,
        jni_sig!(
            "(Ljava/lang/String;Ljava/lang/String;Ljava/lang/String;IJLjava/lang/String;Ljava/lang/String;)V"
        ),
        &[
            (&kind).into(),
            (&message).into(),
            (&volume).into(),
            map_index.into(),
            attempt.into(),
            (&gone).into(),
            (&lost).into(),
        ],
    )?;
    let exception = env.cast_local::<JThrowable>(exception)?;
    debug_assert!(!exception.is_null());
    match env.throw(exception) {
        // `throw` returns this after success.
        Err(JniError::JavaException) | Ok(()) => Ok(()),
        Err(other) => Err(other),
    }
}
