// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Memory that is given to a process when it asks for it: `criu restore --lazy-pages` registers the
//! restored memory with userfaultfd(2), and a daemon fills it from FOAM files, faults first.
