#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: oci_bundle
short_description: Make OCI runtime bundles, Proxmox templates and OCI archives of images
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Makes of an image, a layout, an archive or a root file system what runs. That is a bundle (C(config.json) and a root
    file system) for C(runc), C(crun) and the like, a template for Proxmox VE, or an archive of the image, of which
    Proxmox VE 9.1 and newer create containers.
  - Images come from the store of M(lxcri.proxmox.oci_image), and are pulled when they are not there.
  - The module runs on the node, as root. It needs the commands C(skopeo), C(umoci), C(tar) and C(zstd) there.
  - Nothing is seen at the path before it is complete. A run that was killed is put right by the next one.
extends_documentation_fragment:
  - lxcri.proxmox.attributes
  - lxcri.proxmox.oci
  - lxcri.proxmox.oci_spec
seealso:
  - module: lxcri.proxmox.lxc_container
  - name: The OCI runtime specification
    description: What the options of the process and of the resources mean in detail.
    link: https://github.com/opencontainers/runtime-spec/blob/main/config.md
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  image:
    description:
      - A reference to an image in a registry, such as V(docker.io/library/nginx:1.29).
      - Exactly one of O(image), O(layout), O(archive) and O(rootfs) is needed, or none with O(spec_only=true).
    type: str
  layout:
    description:
      - An OCI image layout in a directory. What follows a colon is the name of an image in it, V(latest) when it has
        several.
    type: str
  archive:
    description:
      - A file as C(docker save) or C(skopeo copy … oci-archive) writes it. What follows a colon is the name of an
        image in it, in full, or its tag where only one has that.
    type: str
  rootfs:
    description:
      - A root file system in a directory. A bundle uses it in place, it is not copied. Without O(process.args) it runs
        C(sh).
    type: path
  format:
    description:
      - V(bundle) makes C(config.json) and C(rootfs) in O(path).
      - V(lxc_template) makes a C(.tar.zst) of the root file system, with the directories that Proxmox and the process
        need, without devices. Its C(/sbin/init) runs the command, where the image has a shell and has not that command
        for an init anyway. Its bytes are the same each time.
      - V(oci_archive) makes a C(.tar) of the image as it is, for one platform. The options of the runtime do not go
        with it.
    type: str
    choices: [bundle, lxc_template, oci_archive]
    default: bundle
  path:
    description:
      - The directory of the bundle.
      - For the other formats the directory in which the file is. Its name has the digest of the image and the key. It
        can be left out with O(upload); the file then lies on the storage only.
    type: path
  name:
    description:
      - What the name of a template or archive begins with. By default the name of the image.
    type: str
  spec_only:
    description:
      - Write C(config.json) only. Names of users are looked up in C(rootfs) beside it, when it is there.
    type: bool
    default: false
  recreate:
    description:
      - Whether the root file system of a bundle is replaced when the image is another one. What was written there is
        lost. Otherwise that is reported, and the root file system stays.
    type: bool
    default: false
  upload:
    description:
      - Place the template or archive on a storage through the API. It is not sent when the storage has the file.
    type: dict
    suboptions:
      storage:
        description: The storage, which has to allow container templates.
        type: str
        required: true
      node:
        description: The node.
        type: str
        required: true
      api_backend:
        description: V(https) speaks to pveproxy, V(local) runs C(pvesh) on this node.
        type: str
        choices: [https, local]
        default: https
      api_host:
        description:
          - The name or address of any node of the cluster.
          - If not set, the environment variable E(PROXMOX_HOST) is used.
        type: str
      api_port:
        description:
          - The port of pveproxy.
          - If not set, the environment variable E(PROXMOX_PORT) is used.
        type: int
        default: 8006
      api_user:
        description:
          - The user with its realm.
          - If not set, the environment variable E(PROXMOX_USER) is used.
        type: str
        default: root@pam
      api_password:
        description:
          - The password of O(upload.api_user).
          - If not set, the environment variable E(PROXMOX_PASSWORD) is used.
        type: str
      api_token_id:
        description:
          - The name of an API token.
          - If not set, the environment variable E(PROXMOX_TOKEN_ID) is used.
        type: str
      api_token_secret:
        description:
          - The secret of the token.
          - If not set, the environment variable E(PROXMOX_TOKEN_SECRET) is used.
        type: str
      validate_certs:
        description:
          - Whether the certificate of the node is verified.
          - If not set, the environment variable E(PROXMOX_VALIDATE_CERTS) is used.
        type: bool
        default: true
      ca_path:
        description:
          - A file with the certificate of the authority that signed the node's certificate.
          - If not set, the environment variable E(PROXMOX_CA_PATH) is used.
        type: path
      api_timeout:
        description: Seconds to wait for the answer to one request.
        type: int
        default: 30
"""

EXAMPLES = r"""
- name: A bundle of an image
  lxcri.proxmox.oci_bundle:
    image: docker.io/library/nginx:1.29
    path: /var/lib/bundles/web
    hostname: web
    process:
      env: {TZ: Europe/Vienna}
      no_new_privileges: true
    resources:
      memory: {limit: 256M}
      pids: {limit: 100}
    mounts:
      - {destination: /usr/share/nginx/html, type: bind, source: /srv/www, options: [ro]}

- name: Another version, in place of what is there
  lxcri.proxmox.oci_bundle:
    image: docker.io/library/nginx:1.30
    path: /var/lib/bundles/web
    recreate: true

- name: The specification alone, for a root file system that is there
  lxcri.proxmox.oci_bundle:
    rootfs: /srv/rootfs
    path: /var/lib/bundles/tools
    spec_only: true

- name: A Proxmox template, placed on a storage
  lxcri.proxmox.oci_bundle:
    image: docker.io/library/nginx:1.29
    format: lxc_template
    upload: {storage: local, node: pve1, api_backend: local}
  register: template

- name: An archive of which Proxmox VE 9.1 and newer create containers
  lxcri.proxmox.oci_bundle:
    archive: /srv/images/web.tar
    format: oci_archive
    name: web
    path: /var/lib/vz/template/cache
"""

RETURN = r"""
path:
  description: The bundle, or the file; null when it lies on the storage only.
  returned: success
  type: str
  sample: /var/lib/bundles/web
rootfs:
  description: The root file system of the bundle.
  returned: success, for O(format=bundle)
  type: str
  sample: /var/lib/bundles/web/rootfs
identity:
  description: What it is made of. The digest of the manifest, of the configuration for an archive of Docker, C(rootfs:)
    and a path, or C(tree:) and a digest for a template of a root file system.
  returned: success
  type: str
  sample: sha256:87be5727fcb6f05f99fae6c99f4b2e2170b45f72f397addb9c46d72832454c3d
key:
  description: A digest of RV(identity), the options and the version of the converter.
  returned: success
  type: str
spec:
  description: The specification. In check mode, and of a template that was on the storage already and is in no
    O(path), a user that has to be looked up in the root file system is C(process.user.username). Null for
    O(format=oci_archive), and in check mode of a template whose O(image) has not been pulled yet.
  returned: success
  type: dict
lxc:
  description:
    - What the specification is for a container of Proxmox. Null when RV(spec) is, or has a user by name.
    - For a template that is on a storage only, the user is noted in O(store); without that note the image is unpacked
      to look the user up, which check mode does not do.
  returned: success
  type: dict
  contains:
    api:
      description: Options of M(lxcri.proxmox.lxc_container).
      type: dict
    raw:
      description: What M(lxcri.proxmox.lxc_raw_config) takes as O(lxcri.proxmox.lxc_raw_config#module:raw).
      type: list
      elements: dict
    losses:
      description: What Proxmox cannot express. Each has C(key), C(value), C(reason) and maybe C(approximated_by).
      type: list
      elements: dict
    files:
      description: Files that RV(lxc.raw) names, by their paths. They are not written.
      type: dict
file_name:
  description: The name of the template or archive.
  returned: success, for the other formats
  type: str
  sample: nginx-1.29_87be5727fcb6-d0f8e4e05448_amd64.tar.zst
volume:
  description: Its volume id on the storage.
  returned: success, with O(upload)
  type: str
  sample: local:vztmpl/nginx-1.29_87be5727fcb6-d0f8e4e05448_amd64.tar.zst
plan:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    key:
      description: V(image), V(rootfs), V(config.json), a key of it, V(key), V(file) or V(volume).
      type: str
    before:
      description: What was there.
      type: raw
    after:
      description: What is there afterwards.
      type: raw
    effect:
      description: V(create), V(rewrite), or V(recreate) when the root file system is replaced.
      type: str
    applied:
      description: False for what needs O(recreate=true). It does not count as changed.
      type: bool
failure:
  description: What stands against it, see RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.upload import open_storage, upload_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.bundle import FORMATS, run_declared
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.bundle_options import spec_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.image import PULL_OPTIONS


def main():
    module = Module(
        argument_spec={
            **PULL_OPTIONS,
            **spec_options(),
            "image": {"type": "str"},
            "layout": {"type": "str"},
            "archive": {"type": "str"},
            "rootfs": {"type": "path"},
            "format": {"type": "str", "choices": list(FORMATS), "default": "bundle"},
            "path": {"type": "path"},
            "name": {"type": "str"},
            "spec_only": {"type": "bool", "default": False},
            "recreate": {"type": "bool", "default": False},
            "upload": {"type": "dict", "options": upload_options()},
        },
        supports_check_mode=True,
    )
    params = module.params

    def connect():
        return open_storage(params["upload"], params["timeout"])

    run_module(module, lambda: run_declared(params, module.check_mode, connect))


if __name__ == "__main__":
    main()
