# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # The store of images, and how a registry is reached.
    DOCUMENTATION = r"""
options:
  store:
    description:
      - The directory of the images on the node, an OCI image layout. What is in it has been verified.
      - The path must not have a colon in it.
    type: path
    default: /var/lib/lxcri/oci
  pull:
    description:
      - V(missing) pulls an image that is not in the store, and asks no registry about one that is.
      - V(newer) asks the registry what a tag means now, and pulls when it is something else. A digest always means the
        same, so that nobody is asked.
      - V(never) fails when the image is not in the store.
    type: str
    choices: [missing, newer, never]
    default: missing
  platform:
    description:
      - The platform, such as V(linux/amd64) or V(arm64). By default that of the node.
    type: str
  username:
    description:
      - The user at the registry. It must not have a colon in it.
      - Without any credentials those are used that C(skopeo login) or C(docker login) has left on the node.
    type: str
  password:
    description: The password of O(username).
    type: str
  token:
    description:
      - An identity token, as C(identitytoken) of Docker's C(config.json), instead of O(password).
    type: str
  auth_file:
    description:
      - A file on the node with credentials, as C(skopeo login --authfile) writes it, instead of O(username).
    type: path
  ca_path:
    description:
      - A file on the node with certificates (PEM) that are trusted besides those of the system.
    type: path
  validate_certs:
    description: Whether the certificate of the registry is verified. Without it HTTP is spoken too.
    type: bool
    default: true
  timeout:
    description: How many seconds an image, a lock or a registry is waited for.
    type: int
    default: 3600
"""
