//! Pure. Users and groups by name or number, from the container's own `/etc/passwd` and `/etc/group` (passwd(5),
//! group(5)).

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The user's home directory, `/` when unknown.
    pub home: String,
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: Vec<&'a str>,
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let (_comment, home) = (fields.next(), fields.next().unwrap_or(""));
        Some(User { name, uid, gid, home })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
        let members = fields.next().unwrap_or("").split(',').filter(|member| !member.is_empty()).collect();
        Some(Group { name, gid, members })
    })
}

fn group_number(text: &str, group: &str) -> Result<u32, String> {
    match groups(group).find(|candidate| candidate.name == text) {
        Some(found) => Ok(found.gid),
        None => text.parse().map_err(|_| format!("unable to find group {text}: no matching entries in group file")),
    }
}

/// Who `text` (`user`, `user:group`, numbers or names, or empty) is, with `more` groups beside.
///
/// # Errors
/// A sentence that names the user or group that the image does not have.
pub fn resolve(text: &str, more: &[String], passwd: &str, group: &str) -> Result<Identity, String> {
    let (user_text, group_text) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let user_text = if user_text.is_empty() { "0" } else { user_text };
    let number: Option<u32> = user_text.parse().ok();
    let known = users(passwd)
        .find(|user| user.name == user_text)
        .or_else(|| number.and_then(|number| users(passwd).find(|user| user.uid == number)));
    let uid = match (&known, number) {
        (Some(user), _) => user.uid,
        (None, Some(number)) => number,
        (None, None) => return Err(format!("unable to find user {user_text}: no matching entries in passwd file")),
    };
    let gid = match group_text {
        Some(text) => group_number(text, group)?,
        None => known.as_ref().map_or(0, |user| user.gid),
    };
    let mut all: Vec<u32> = Vec::new();
    // A group that is named replaces those that the user is a member of, as Docker has it.
    if let (Some(user), None) = (&known, group_text) {
        all.extend(groups(group).filter(|group| group.members.contains(&user.name)).map(|group| group.gid));
    }
    for text in more {
        all.push(group_number(text, group)?);
    }
    all.push(gid);
    all.sort_unstable();
    all.dedup();
    let home = known.as_ref().map(|user| user.home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(Identity { uid, gid, groups: all, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:,,,:/var/www:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:44:\nssl:x:50:web,other\nlogs:x:51:other\n";

    #[test]
    fn names_numbers_and_groups() {
        let web = resolve("web", &[], PASSWD, GROUP).unwrap();
        assert_eq!(web, Identity { uid: 33, gid: 44, groups: vec![44, 50], home: "/var/www".to_owned() });
        assert_eq!(resolve("33", &[], PASSWD, GROUP).unwrap(), web);
        assert_eq!(resolve("web:logs", &[], PASSWD, GROUP).unwrap().groups, [51]);
        assert_eq!(resolve("", &["ssl".to_owned(), "7".to_owned()], PASSWD, GROUP).unwrap().groups, [0, 7, 50]);
        let stranger = resolve("1000:1001", &[], PASSWD, GROUP).unwrap();
        assert_eq!((stranger.uid, stranger.gid, stranger.home.as_str()), (1000, 1001, "/"));
        assert_eq!(resolve("1000", &[], "", "").unwrap().gid, 0);
    }

    #[test]
    fn who_is_not_there_is_named() {
        assert_eq!(
            resolve("nobody", &[], PASSWD, GROUP).unwrap_err(),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert!(resolve("web:nogroup", &[], PASSWD, GROUP).unwrap_err().contains("group nogroup"));
        assert!(resolve("-1", &[], PASSWD, GROUP).is_err());
        assert!(resolve("4294967296", &[], PASSWD, GROUP).is_err());
    }
}
