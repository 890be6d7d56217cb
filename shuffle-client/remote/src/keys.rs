//! Where things lie in the store, below the prefix that the URL names: all of it in one directory,
//! [`ROOT`].
//!
//! | key | content |
//! |---|---|
//! | `forebay-v1/.forebay-marker` | whose directory this is |
//! | `forebay-v1/<app>/lease` | until when the app's objects live, see [`super::lease`] |
//! | `forebay-v1/<app>/<shuffle>/<volume>/<what is left>-<generation>.manifest` | what one round of write-back added, see [`super::manifest`] |
//! | `forebay-v1/<app>/<shuffle>/<volume>/data-<generation>-<number>-<nonce>.obj` | blocks, see [`super::object`] |
//!
//! `<volume>` is the hyphenated UUID; generation and number have eight decimal digits and begin at
//! 1 and 0. A manifest's name begins with what is left of eight nines, so that the first name of a
//! listing is the last manifest's. The nonce, 16 hexadecimal digits, is another one in every round:
//! a PUT of a round that was given up may arrive at any time later, and hits nothing that a
//! manifest names. Readers have it from the manifest.
//!
//! What lies beside [`ROOT`] is somebody else's, and what lies in it under a name that [`parse`]
//! does not know is too (invariant: foreign-is-untouched).

use shuffle_proto::ids::{AppId, ShuffleId, VolumeId};

use super::Place;

/// All that is Forebay's. Another layout will have another name.
pub const ROOT: &str = "forebay-v1";
/// No generation is higher.
const LAST: u32 = 99_999_999;

/// What a key names, if it is one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ours {
    /// An app's lease.
    Lease(AppId),
    /// A manifest, by its generation.
    Manifest(Place, u32),
    /// An object, by generation, number and nonce.
    Object(Place, u32, u32, u64),
}

/// Of the marker. A name that no directory of an app's would have.
pub fn marker() -> String {
    format!("{ROOT}/.forebay-marker")
}

/// Of everything that an app has.
pub fn app(app: &AppId) -> String {
    format!("{ROOT}/{app}")
}

/// Of everything that a shuffle has, of all volumes.
pub fn shuffle(app: &AppId, shuffle: ShuffleId) -> String {
    format!("{ROOT}/{app}/{shuffle}")
}

/// Of an app's lease.
pub fn lease(app: &AppId) -> String {
    format!("{ROOT}/{app}/lease")
}

/// Of what a volume has of a shuffle.
pub fn place(place: &Place) -> String {
    format!("{ROOT}/{}/{}/{}", place.app, place.shuffle, place.volume)
}

/// Of a manifest.
pub fn manifest(of: &Place, generation: u32) -> String {
    format!("{}/{}", place(of), manifest_name(generation))
}

/// Of an object.
pub fn object(of: &Place, generation: u32, number: u32, nonce: u64) -> String {
    format!("{}/{}", place(of), object_name(generation, number, nonce))
}

/// Of a manifest, in the directory of its place.
pub fn manifest_name(generation: u32) -> String {
    let left = LAST.saturating_sub(generation);
    format!("{left:08}-{generation:08}.manifest")
}

/// Of an object, in the directory of its place.
pub fn object_name(generation: u32, number: u32, nonce: u64) -> String {
    format!("data-{generation:08}-{number:08}-{nonce:016x}.obj")
}

/// Which manifest has this name.
pub fn generation(name: &str) -> Option<u32> {
    let (_, generation) = name.strip_suffix(".manifest")?.split_once('-')?;
    let generation = generation.parse().ok()?;
    (manifest_name(generation) == name).then_some(generation)
}

/// Which generation, number and nonce has the object of this name.
pub fn object_of(name: &str) -> Option<(u32, u32, u64)> {
    let parts = name.strip_prefix("data-")?.strip_suffix(".obj")?;
    let (generation, rest) = parts.split_once('-')?;
    let (number, nonce) = rest.split_once('-')?;
    let nonce = u64::from_str_radix(nonce, 16).ok()?;
    let of = (generation.parse().ok()?, number.parse().ok()?, nonce);
    (object_name(of.0, of.1, of.2) == name).then_some(of)
}

/// What a key names; `None` if nothing of ours has exactly this name.
pub fn parse(key: &str) -> Option<Ours> {
    let mut names = key.split('/');
    (names.next()? == ROOT).then_some(())?;
    let app = AppId::try_new(names.next()?)?;
    let ours = match (names.next()?, names.next(), names.next(), names.next()) {
        ("lease", None, ..) => Ours::Lease(app),
        (shuffle, Some(volume), Some(name), None) => {
            let place = Place {
                app,
                shuffle: ShuffleId(shuffle.parse().ok()?),
                volume: VolumeId::parse(volume)?,
            };
            match (generation(name), object_of(name)) {
                (Some(generation), _) => Ours::Manifest(place, generation),
                (None, Some((generation, number, nonce))) => {
                    Ours::Object(place, generation, number, nonce)
                }
                (None, None) => return None,
            }
        }
        _ => return None,
    };
    // Numbers and UUIDs can be written in more than one way; ours are written in one.
    (ours.key() == key).then_some(ours)
}

impl Ours {
    /// Where it lies.
    pub fn key(&self) -> String {
        match self {
            Ours::Lease(app) => lease(app),
            Ours::Manifest(place, generation) => manifest(place, *generation),
            Ours::Object(place, generation, number, nonce) => {
                object(place, *generation, *number, *nonce)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_what_they_are() {
        let place = Place {
            app: AppId::try_new("app-1").expect("valid"),
            shuffle: ShuffleId(7),
            volume: VolumeId::parse("01020304-0506-0708-090a-0b0c0d0e0f10").expect("valid"),
        };
        assert_eq!(marker(), "forebay-v1/.forebay-marker");
        assert_eq!(lease(&place.app), "forebay-v1/app-1/lease");
        assert_eq!(shuffle(&place.app, place.shuffle), "forebay-v1/app-1/7");
        let volume = "forebay-v1/app-1/7/01020304-0506-0708-090a-0b0c0d0e0f10";
        assert_eq!(
            manifest(&place, 1),
            format!("{volume}/99999998-00000001.manifest")
        );
        assert_eq!(
            object(&place, 1, 0, 0xab),
            format!("{volume}/data-00000001-00000000-00000000000000ab.obj")
        );
        for ours in [
            Ours::Lease(place.app.clone()),
            Ours::Manifest(place.clone(), 12_345_678),
            Ours::Object(place.clone(), 1, 2, u64::MAX),
        ] {
            assert_eq!(parse(&ours.key()), Some(ours));
        }
    }

    #[test]
    fn what_is_named_otherwise_is_not_ours() {
        let volume = "01020304-0506-0708-090a-0b0c0d0e0f10";
        for key in [
            "".to_owned(),
            "app-1/lease".to_owned(),
            "forebay-v1".to_owned(),
            "forebay-v1/lease".to_owned(),
            "forebay-v1/.forebay-marker".to_owned(),
            "forebay-v1/app-1/lease/more".to_owned(),
            "forebay-v1/app-1/Lease".to_owned(),
            "forebay-v1/a b/lease".to_owned(),
            "forebay-v2/app-1/lease".to_owned(),
            "forebay-v1/app-1/7/part-0000.parquet".to_owned(),
            format!("forebay-v1/app-1/7/{volume}/1.manifest"),
            format!("forebay-v1/app-1/7/{volume}/00000001.manifest"),
            format!("forebay-v1/app-1/7/{volume}/99999997-00000001.manifest"),
            format!("forebay-v1/app-1/07/{volume}/99999998-00000001.manifest"),
            format!("forebay-v1/app-1/+7/{volume}/99999998-00000001.manifest"),
            format!("forebay-v1/app-1/7/{volume}/99999998-00000001.manifest.bak"),
            format!("forebay-v1/app-1/7/{volume}/x/99999998-00000001.manifest"),
            format!("forebay-v1/app-1/7/{volume}/00000001-00000000.obj"),
            format!("forebay-v1/app-1/7/{volume}/data-00000001-00000000-00000000000000AB.obj"),
            format!("forebay-v1/app-1/7/{volume}/data-00000001-00000000-00000000000000ab-1.obj"),
            "forebay-v1/app-1/7/010203040506-0708-090a-0b0c0d0e0f10/99999998-00000001.manifest"
                .to_owned(),
            "forebay-v1/app-1/7/0102030405060708090A0B0C0D0E0F10/99999998-00000001.manifest"
                .to_owned(),
        ] {
            assert_eq!(parse(&key), None, "{key}");
        }
    }

    #[test]
    fn the_first_name_of_a_place_is_that_of_its_last_manifest() {
        let mut names = Vec::new();
        for number in [1, 2, 9, 10, 99, 100, 9999, 10_000, 99_999_998] {
            names.extend([manifest_name(number), object_name(number, 0, 7)]);
            assert_eq!(generation(&manifest_name(number)), Some(number));
            let first = names.iter().min().expect("some");
            assert_eq!(generation(first), Some(number), "{names:?}");
        }
    }
}
