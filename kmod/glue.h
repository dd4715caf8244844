/* SPDX-License-Identifier: GPL-2.0 */
/* Inline functions and macros of the kernel, as functions that Rust can call. */
#ifndef RPRAMFS_GLUE_H
#define RPRAMFS_GLUE_H

#include <linux/fs.h>

void rpramfs_inode_lock(struct inode *inode);
void rpramfs_inode_unlock(struct inode *inode);

#endif
