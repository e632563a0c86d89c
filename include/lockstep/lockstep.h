// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file
/// Everything that a training program needs. `<lockstep/ddp.h>` and `<lockstep/data.h>` are its
/// parts.

#include <lockstep/data.h>
#include <lockstep/ddp.h>
#include <lockstep/workers/result_codec.h>
#include <lockstep/workers/worker_pool.h>
