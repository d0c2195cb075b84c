# Edits the configuration of a container and writes it as Proxmox does: keys sorted, raw lines after them, the pending
# section and then the snapshots by name.
#
# ENVIRON["EDITS"] holds one edit a line:
#   set KEY VALUE       in the configuration itself
#   unset KEY
#   save NAME           adds a snapshot: what Proxmox copies of the configuration
#   set-in NAME KEY VALUE, unset-in NAME KEY
#   apply NAME          replaces the configuration by that of a snapshot; description and unused volumes stay
#   drop NAME           removes a snapshot; what had it as parent gets its parent

function put(section, key, value) {
    if (!((section, key) in values)) keys[section] = keys[section] " " key
    values[section, key] = value
}

function remove(section, key) {
    delete values[section, key]
    sub(" " key "( |$)", " ", keys[section])
    sub(/ +$/, "", keys[section])
}

function copy(from, to,    i, n, list) {
    n = split(keys[from], list, " ")
    for (i = 1; i <= n; i++)
        if (list[i] !~ /^(snapstate|snaptime|vmstate|lock|unused[0-9]+)$/) put(to, list[i], values[from, list[i]])
    raw[to] = raw[from]
}

function clear(section) {
    keys[section] = raw[section] = comment[section] = ""
}

function relink(section, from, to) {
    if (!((section, "parent") in values) || values[section, "parent"] != from) return
    if (to == "") remove(section, "parent")
    else values[section, "parent"] = to
}

function edit(line,    word, rest, n, i, list, parent, name) {
    split(line, word, " ")
    rest = line
    if (word[1] == "set") {
        sub(/^set [^ ]+ /, "", rest)
        put("", word[2], rest)
    } else if (word[1] == "unset") remove("", word[2])
    else if (word[1] == "set-in") {
        sub(/^set-in [^ ]+ [^ ]+ /, "", rest)
        if (word[3] == "description") comment[word[2]] = "#" rest "\n"
        else put(word[2], word[3], rest)
    } else if (word[1] == "unset-in") remove(word[2], word[3])
    else if (word[1] == "save") {
        sections[word[2]] = 1
        copy("", word[2])
    } else if (word[1] == "apply") {
        n = split(keys[""], list, " ")
        for (i = 1; i <= n; i++) if (list[i] !~ /^unused[0-9]+$/) remove("", list[i])
        copy(word[2], "")
    } else if (word[1] == "drop") {
        parent = values[word[2], "parent"]
        delete sections[word[2]]
        relink("", word[2], parent)
        for (name in sections) relink(name, word[2], parent)
    }
}

function sorted(text, list,    n, i, j, one) {
    n = split(text, list, " ")
    for (i = 2; i <= n; i++) {
        one = list[i]
        for (j = i - 1; j >= 1 && list[j] > one; j--) list[j + 1] = list[j]
        list[j + 1] = one
    }
    return n
}

function show(section,    i, n, list) {
    printf "%s", comment[section]
    n = sorted(keys[section], list)
    for (i = 1; i <= n; i++) print list[i] ": " values[section, list[i]]
    printf "%s", raw[section]
}

/^[ \t]*$/ { next }
/^\[/ {
    section = substr($0, 2, index($0, "]") - 2)
    sections[section] = 1
    next
}
/^#/ { comment[section] = comment[section] $0 "\n"; next }
/^lxc\./ { raw[section] = raw[section] $0 "\n"; next }
{ put(section, substr($0, 1, index($0, ":") - 1), substr($0, index($0, ":") + 2)) }

END {
    n = split(ENVIRON["EDITS"], edits, "\n")
    for (i = 1; i <= n; i++) if (edits[i] != "") edit(edits[i])
    show("")
    if ("pve:pending" in sections) {
        print "\n[pve:pending]"
        show("pve:pending")
    }
    all = ""
    for (name in sections) if (name != "pve:pending") all = all " " name
    count = sorted(all, names)
    for (k = 1; k <= count; k++) {
        print "\n[" names[k] "]"
        show(names[k])
    }
}
