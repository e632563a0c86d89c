// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file core/export.h
/// What a shared build shows.

/// Marks what a shared build of Lockstep exports; everything else stays hidden.
#define LOCKSTEP_API __attribute__((visibility("default")))
