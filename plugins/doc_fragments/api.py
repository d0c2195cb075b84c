# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # How every module reaches the API.
    DOCUMENTATION = r"""
options:
  api_backend:
    description:
      - How the API is reached.
      - V(https) speaks to pveproxy. V(local) runs C(pvesh) on the node where the module runs. V(openssh) runs C(pvesh)
        on O(api_host) through SSH.
    type: str
    choices: [https, local, openssh]
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
      - The user with its realm, such as V(root@pam).
      - If not set, the environment variable E(PROXMOX_USER) is used.
    type: str
    default: root@pam
  api_password:
    description:
      - The password of O(api_user). A login costs the node a lot of time, so prefer a token.
      - If not set, the environment variable E(PROXMOX_PASSWORD) is used.
    type: str
  api_token_id:
    description:
      - The name of an API token of O(api_user), or its full id such as V(ansible@pve!deploy).
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
      - A file with the certificate of the authority that signed the node's certificate. On a Proxmox node that is
        C(/etc/pve/pve-root-ca.pem).
      - If not set, the environment variable E(PROXMOX_CA_PATH) is used, and else the system's authorities.
    type: path
  api_timeout:
    description:
      - Seconds to wait for the answer to one request.
    type: int
    default: 30
requirements:
  - Python 3.9 or newer
  - proxmoxer 2.0.1 or newer; 2.3 or newer for other values of O(api_backend) than V(https)
  - requests 2.31 or newer
  - openssh-wrapper, for O(api_backend=openssh) only
"""

    ACTION_GROUP = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/lxcri.proxmox.api) in C(module_defaults) to set how the API is reached for all modules.
    support: full
    membership:
      - lxcri.proxmox.api
"""
