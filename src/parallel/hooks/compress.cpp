// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/parallel/hooks/compress.h>

#include <utility>

#include "parallel/hooks/bucket_layout.h"

namespace lockstep::hooks {

CommunicationHook all_reduce() {
  return [](ProcessGroup& group, const GradientBucketView& bucket) {
    return group.all_reduce(bucket.buffer(), ReduceOp::Avg).then([buffer = bucket.buffer()] {
      return buffer;
    });
  };
}

CommunicationHook compress(at::ScalarType dtype, CommunicationHook inner) {
  TORCH_CHECK(dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kFloat,
              "compress: dtype is ", dtype, "; allowed are Half, BFloat16, Float");
  TORCH_CHECK(inner != nullptr, "compress: inner is empty; give it a communication hook");
  return [dtype, inner = std::move(inner)](ProcessGroup& group, const GradientBucketView& bucket) {
    check_dtype("compress", bucket);
    const at::Tensor& buffer = bucket.buffer();
    if (c10::elementSize(buffer.scalar_type()) <= c10::elementSize(dtype))
      return inner(group, bucket);
    const at::Tensor narrow = buffer.to(dtype);
    const GradientBucketView view(bucket.index(), bucket.is_last(), bucket.plan(), narrow,
                                  views_in(narrow, bucket), bucket.parameters());
    return inner(group, view).then([buffer](const at::Tensor& average) {
      TORCH_CHECK(average.defined() && average.numel() == buffer.numel(),
                  "compress: the inner hook's future has ", average.defined() ? average.numel() : 0,
                  " elements; the bucket has ", buffer.numel());
      buffer.copy_(average.view(buffer.sizes()));
      return buffer;
    });
  };
}

CommunicationHook fp16_compress() {
  return compress(at::kHalf);
}

CommunicationHook bf16_compress() {
  return compress(at::kBFloat16);
}

}  // namespace lockstep::hooks
