#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: oci_image
short_description: Keep images of registries on a node
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Pulls OCI and Docker images into a store on the node, of which M(lxcri.proxmox.oci_bundle) and
    M(lxcri.proxmox.lxc_container) make containers. The store is an OCI image layout.
  - Everything is verified before it is in the store, also what C(skopeo) takes on trust, such as the sizes and the
    content of layers. Images are kept as OCI with gzip layers; what is something else is converted.
  - The module runs on the node or on a build host. It needs the command C(skopeo) there. The signature policy of the
    node (containers-policy.json(5)) is obeyed.
  - Runs may be interrupted in any way, and may happen at the same time. What is complete is not downloaded again.
extends_documentation_fragment:
  - lxcri.proxmox.attributes
  - lxcri.proxmox.oci
seealso:
  - module: lxcri.proxmox.oci_bundle
attributes:
  check_mode:
    support: full
    details: Manifests are fetched from the registry in check mode too, layers are not.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  images:
    description:
      - References to images, such as V(docker.io/library/nginx:1.29) or V(registry.example.org:5000/app@sha256:…).
        With a tag and a digest the digest counts.
      - A name without a registry is one of Docker Hub.
    type: list
    elements: str
    aliases: [image, name]
    default: []
  state:
    description:
      - V(present) has the images in the store.
      - V(absent) removes them, and the blobs that no other image has. Without O(platform) for all platforms.
      - V(pushed) has one image of the store in another registry, as O(to). The options of the registry are about that
        one.
    type: str
    choices: [present, absent, pushed]
    default: present
  to:
    description:
      - The reference that an image gets with O(state=pushed).
    type: str
  verify:
    description:
      - Whether the layers of images that are in the store already are read and verified again. A damaged image is
        pulled again.
    type: bool
    default: false
  prune:
    description:
      - Remove what nobody needs. That is blobs that belong to no image of the store, downloads that were interrupted,
        and images that were not used for a while. V({}) removes no images.
      - Nothing is pruned when an image has failed.
    type: dict
    suboptions:
      unused_for:
        description:
          - For how long an image was not used when it goes, such as V(12h), V(30d) or V(4w). It is used when a task
            names it, also to push it, which is noted once an hour. Check mode notes nothing. Those in O(images) stay.
        type: str
      keep:
        description: Images that stay besides those in O(images), however long they were not used.
        type: list
        elements: str
"""

EXAMPLES = r"""
- name: Two images on the node
  lxcri.proxmox.oci_image:
    images:
      - docker.io/library/nginx:1.29
      - docker.io/library/redis:8

- name: What the tag means now, and nothing that was not used for a month
  lxcri.proxmox.oci_image:
    image: registry.example.org/shop/web:stable
    pull: newer
    username: puller
    password: "{{ registry_password }}"
    ca_path: /etc/ssl/private-ca.pem
    prune: {unused_for: 30d}

- name: The same image in the registry of another site
  lxcri.proxmox.oci_image:
    image: registry.example.org/shop/web:stable
    to: mirror.example.net/shop/web:stable
    auth_file: /root/mirror-auth.json
    ca_path: /etc/ssl/private-ca.pem
    state: pushed

- name: No longer
  lxcri.proxmox.oci_image:
    image: docker.io/library/redis:8
    state: absent
"""

RETURN = r"""
images:
  description: One result for each image that did not fail.
  returned: success
  type: list
  elements: dict
  contains:
    reference:
      description: The image, in full.
      type: str
      sample: docker.io/library/nginx:1.29
    platform:
      description: For which platform.
      type: str
      sample: linux/amd64
    changed:
      description: Whether it was pulled, pushed or removed, or would be.
      type: bool
    before:
      description: What the reference meant before, a digest.
      type: str
    source_digest:
      description: What the reference means at its registry, the digest of an index or of a manifest.
      type: str
    identity:
      description: The digest of the manifest for the platform, as it is at the registry.
      type: str
    digest:
      description: The digest of the manifest in the store. It is another one when the image was converted; in check
        mode it is null then.
      type: str
    size:
      description: Bytes of the image, compressed.
      type: int
    layers:
      description: The digests of the layers, the lowest first. Not in check mode for what is not there yet, as what
        follows.
      type: list
      elements: str
    created:
      description: When the image was built, as it says.
      type: str
    labels:
      description: Its labels.
      type: dict
    architecture:
      description: The architecture that the image says it is for.
      type: str
    to:
      description: Where it was pushed.
      type: str
plan:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    key:
      description: The image, the blob or the download.
      type: str
    before:
      description: A digest, or the size of what is removed.
      type: raw
    after:
      description: A digest.
      type: raw
    effect:
      description: V(pull), V(push) or V(remove).
      type: str
pruned:
  description: What was removed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(image), V(blob), or V(download) for one that was not finished.
      type: str
    name:
      description: The reference or the digest.
      type: str
    size:
      description: Bytes. Those of an image are told with its blobs.
      type: int
    platform:
      description: Of an image, its platform.
      type: str
    digest:
      description: Of an image, the digest of its manifest.
      type: str
freed:
  description: The sum of these bytes.
  returned: success
  type: int
failure:
  description: What stands against it, see RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.images import OPTIONS, run_declared


def main():
    module = Module(argument_spec=OPTIONS, supports_check_mode=True)
    run_module(module, lambda: run_declared(module.params, module.check_mode))


if __name__ == "__main__":
    main()
