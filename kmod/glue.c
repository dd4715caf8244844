// SPDX-License-Identifier: GPL-2.0
#include "glue.h"

void rpramfs_inode_lock(struct inode *inode)
{
	inode_lock(inode);
}

void rpramfs_inode_unlock(struct inode *inode)
{
	inode_unlock(inode);
}
