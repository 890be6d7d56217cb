//! Keys in the store, below the prefix of its URL: everything is in one directory, [`ROOT`].
//!
//! | key | content |
//! |---|---|
//! | `forebay-v1/.forebay-marker` | whose directory this is |
//! | `forebay-v1/<app>/lease` | until when the app's objects live, see [`super::lease`] |
//! | `forebay-v1/<app>/<shuffle>/<volume>/<what is left>-<generation>.manifest` | what one round of write-back added, see [`super::manifest`] |
//! | `forebay-v1/<app>/<shuffle>/<volume>/data-<generation>-<number>-<nonce>.obj` | blocks, see [`super::object`] |
//!
//! `<volume>` is the hyphenated UUID; generation and number have eight decimal digits and begin at
//! 1 and 0. A manifest's name begins with eight nines minus its generation, so the last manifest is
//! the first name of a listing. The nonce, 16 hexadecimal digits, differs in every round: a late
//! PUT of an abandoned round hits no key named by a manifest. Readers get the nonce from the
//! manifest.
//!
//! Keys beside [`ROOT`] are foreign, and so are keys in it with a name unknown to [`parse`]
//! (invariant: foreign-is-untouched).

use shuffle_proto::ids::{AppId, ShuffleId, VolumeId};

use super::Place;

/// Forebay's directory. A different layout gets a different name.
pub const ROOT: &str = "forebay-v1";
/// No generation is higher.
const LAST: u32 = 99_999_999;

/// Meaning of a Forebay key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ours {
    /// An app's lease.
    Lease(AppId),
    /// A manifest, with its generation.
    Manifest(Place, u32),
    /// An object, by generation, number and nonce.
    Object(Place, u32, u32, u64),
}

/// Key of the marker: no app's directory can have this name.
pub fn marker() -> String {
    format!("{ROOT}/.forebay-marker")
}

/// Directory of an app.
pub fn app(app: &AppId) -> String {
    format!("{ROOT}/{app}")
}

/// Directory of a shuffle, of all volumes.
pub fn shuffle(app: &AppId, shuffle: ShuffleId) -> String {
    format!("{ROOT}/{app}/{shuffle}")
}

/// Of an app's lease.
pub fn lease(app: &AppId) -> String {
    format!("{ROOT}/{app}/lease")
}

/// Directory of one volume's part of a shuffle.
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

/// Key of a manifest.
pub fn manifest_name(generation: u32) -> String {
    let left = LAST.saturating_sub(generation);
    format!("{left:08}-{generation:08}.manifest")
}

/// Key of an object.
pub fn object_name(generation: u32, number: u32, nonce: u64) -> String {
    format!("data-{generation:08}-{number:08}-{nonce:016x}.obj")
}

/// Generation of a manifest's name.
pub fn generation(name: &str) -> Option<u32> {
    let (_, generation) = name.strip_suffix(".manifest")?.split_once('-')?;
    let generation = generation.parse().ok()?;
    (manifest_name(generation) == name).then_some(generation)
}

/// Generation, number and nonce of an object's name.
pub fn object_of(name: &str) -> Option<(u32, u32, u64)> {
    let parts = name.strip_prefix("data-")?.strip_suffix(".obj")?;
    let (generation, rest) = parts.split_once('-')?;
    let (number, nonce) = rest.split_once('-')?;
    let nonce = u64::from_str_radix(nonce, 16).ok()?;
    let of = (generation.parse().ok()?, number.parse().ok()?, nonce);
    (object_name(of.0, of.1, of.2) == name).then_some(of)
}

/// Meaning of a key; `None` unless it is exactly a Forebay key.
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
    // Numbers and UUIDs have several spellings, and Forebay's keys only one.
    (ours.key() == key).then_some(ours)
}

impl Ours {
    /// Place of the key.
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
