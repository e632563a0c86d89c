// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/hooks/bucket_layout.h"

#include <c10/util/Exception.h>

namespace lockstep::hooks {

void check_dtype(const char* hook, const GradientBucketView& bucket) {
  const at::ScalarType dtype = bucket.buffer().scalar_type();
  TORCH_CHECK(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
      hook, ": ", name_of(bucket), " is of ", dtype, "; allowed are Float, Double, Half, BFloat16");
}

at::ScalarType computing_dtype(const GradientBucketView& bucket) {
  const at::ScalarType dtype = bucket.buffer().scalar_type();
  return dtype == at::kHalf || dtype == at::kBFloat16 ? at::kFloat : dtype;
}

std::string name_of(const GradientBucketView& bucket) {
  return "bucket " + std::to_string(bucket.index() + 1);
}

std::vector<at::Tensor> views_in(const at::Tensor& flat, const GradientBucketView& bucket) {
  std::vector<at::Tensor> views;
  for (const at::Tensor& gradient : bucket.gradients()) {
    // Strides stay: a gradient in channels_last is one in there, too.
    const std::int64_t offset = gradient.storage_offset() - bucket.buffer().storage_offset();
    views.push_back(
        flat.as_strided(gradient.sizes(), gradient.strides(), flat.storage_offset() + offset));
  }
  return views;
}

}  // namespace lockstep::hooks
