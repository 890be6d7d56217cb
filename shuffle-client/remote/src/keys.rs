//! Where things lie in the store, below the prefix that the URL names.
//!
//! | key | content |
//! |---|---|
//! | `<app>/lease` | until when the app's objects live, see [`super::lease`] |
//! | `<app>/<shuffle>/<volume>/<generation>.manifest` | what one round of write-back added, see [`super::manifest`] |
//! | `<app>/<shuffle>/<volume>/<generation>-<number>.obj` | blocks, see [`super::object`] |
//!
//! `<volume>` is the hyphenated UUID; generation and number have eight decimal digits and begin at 1 and 0. Generations have no
//! gaps, so a chain is read by asking for the next one until there is none: nothing has to be listed. All that an app, or a shuffle,
//! has lies below one directory, so that its deletion is exact whatever a crash has left there.

use shuffle_proto::ids::{AppId, ShuffleId};

use super::Place;

/// Of everything that an app has.
pub fn app(app: &AppId) -> String {
    app.to_string()
}

/// Of everything that a shuffle has, of all volumes.
pub fn shuffle(app: &AppId, shuffle: ShuffleId) -> String {
    format!("{app}/{shuffle}")
}

/// Of an app's lease.
pub fn lease(app: &AppId) -> String {
    format!("{app}/lease")
}

/// Of a manifest.
pub fn manifest(place: &Place, generation: u32) -> String {
    format!(
        "{}/{}/{}/{generation:08}.manifest",
        place.app, place.shuffle, place.volume
    )
}

/// Of an object.
pub fn object(place: &Place, generation: u32, number: u32) -> String {
    format!(
        "{}/{}/{}/{generation:08}-{number:08}.obj",
        place.app, place.shuffle, place.volume
    )
}

#[cfg(test)]
mod tests {
    use shuffle_proto::ids::VolumeId;

    use super::*;

    #[test]
    fn keys_stay_what_they_are() {
        let place = Place {
            app: AppId::try_new("app-1").expect("valid"),
            shuffle: ShuffleId(7),
            volume: VolumeId::parse("01020304-0506-0708-090a-0b0c0d0e0f10").expect("valid"),
        };
        assert_eq!(lease(&place.app), "app-1/lease");
        assert_eq!(shuffle(&place.app, place.shuffle), "app-1/7");
        assert_eq!(
            manifest(&place, 1),
            "app-1/7/01020304-0506-0708-090a-0b0c0d0e0f10/00000001.manifest"
        );
        assert_eq!(
            object(&place, 1, 0),
            "app-1/7/01020304-0506-0708-090a-0b0c0d0e0f10/00000001-00000000.obj"
        );
    }
}
