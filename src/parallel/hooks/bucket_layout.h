// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/parallel/communication_hook.h>

#include <string>
#include <vector>

namespace lockstep::hooks {

/// Throws: `c10::Error` naming the hook, unless the bucket is of Float, Double, Half or BFloat16.
void check_dtype(const char* hook, const GradientBucketView& bucket);

/// The dtype in which hooks compute: that of the bucket, or Float for those of two bytes.
[[nodiscard]] at::ScalarType computing_dtype(const GradientBucketView& bucket);

/// What errors call the bucket, as without a hook: "bucket 2".
[[nodiscard]] std::string name_of(const GradientBucketView& bucket);

/// The places of the bucket's gradients in another tensor that begins like its buffer.
[[nodiscard]] std::vector<at::Tensor> views_in(const at::Tensor& flat,
                                               const GradientBucketView& bucket);

}  // namespace lockstep::hooks
