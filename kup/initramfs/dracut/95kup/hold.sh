#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
# dracut reads its hooks into its own shell.
/usr/lib/kup/initramfs-hold
