// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/ddp_checks.h"

#include <algorithm>
#include <sstream>

#include "comm/collective/reduce_kernels.h"

namespace lockstep {
namespace {

void check_names(const torch::nn::Module& module, const std::vector<std::string>& ignored) {
  const auto parameters = module.named_parameters();
  const auto buffers = module.named_buffers();
  for (const std::string& name : ignored) {
    TORCH_CHECK(parameters.contains(name) || buffers.contains(name),
                "DistributedDataParallel: ignored_names has '", name,
                "', but the module has no parameter or buffer of that name");
  }
}

/// What is none of `ignored` has values that all ranks can have.
void check_state(const torch::nn::Module& module, const std::vector<std::string>& ignored) {
  const auto check = [&](const char* kind, const auto& tensors) {
    for (const auto& item : tensors) {
      const bool is_ignored =
          std::find(ignored.begin(), ignored.end(), item.key()) != ignored.end();
      if (!is_ignored) check_can_be_shared(kind, item.key(), item.value());
    }
  };
  check("parameter", module.named_parameters());
  check("buffer", module.named_buffers());
}

void check_options(const DistributedDataParallelOptions& options) {
  TORCH_CHECK(options.bucket_cap_bytes() > 0,
              "DistributedDataParallel: bucket_cap_bytes is 0; it must be positive");
  for (const std::size_t cap : options.bucket_caps_bytes()) {
    TORCH_CHECK(cap > 0, "DistributedDataParallel: bucket_caps_bytes has a 0; caps are positive");
  }
  if (const auto dtype = options.reduce_dtype()) {
    TORCH_CHECK(*dtype == at::kHalf || *dtype == at::kBFloat16 || *dtype == at::kFloat,
                "DistributedDataParallel: reduce_dtype is ", *dtype,
                "; it can be Half, BFloat16 or Float");
  }
  TORCH_CHECK(!options.static_graph() || options.averaging() != GradientAveraging::Samples,
              "DistributedDataParallel: averaging by samples needs the exchange that static_graph "
              "saves; use one of the two");
}

const char* name_of(GradientAveraging averaging) {
  switch (averaging) {
    case GradientAveraging::ActiveRanks:
      return "ActiveRanks";
    case GradientAveraging::AllRanks:
      return "AllRanks";
    default:
      return "Samples";
  }
}

const char* name_of(BufferSync sync) {
  switch (sync) {
    case BufferSync::Local:
      return "Local";
    case BufferSync::Broadcast:
      return "Broadcast";
    default:
      return "Average";
  }
}

}  // namespace

void check_arguments(const torch::nn::Module& module,
                     const DistributedDataParallelOptions& options) {
  check_options(options);
  check_names(module, options.ignored_names());
  check_state(module, options.ignored_names());
}

void check_parameters(const NamedTensors& parameters) {
  TORCH_CHECK(!parameters.empty(),
              "DistributedDataParallel: the module has no parameter that needs a gradient");
  for (const auto& [name, parameter] : parameters) {
    const at::ScalarType dtype = parameter.scalar_type();
    TORCH_CHECK(!c10::isFloat8Type(dtype) && can_reduce(dtype, ReduceOp::Avg),
                "DistributedDataParallel: parameter '", name, "' has dtype ", dtype,
                "; gradients of Float, Double, Half, BFloat16, ComplexFloat and ComplexDouble "
                "parameters can be averaged");
  }
}

std::string describe(const DistributedDataParallelOptions& options) {
  std::ostringstream text;
  text << std::boolalpha << "options name='" << options.name()
       << "' bucket_cap_bytes=" << options.bucket_cap_bytes()
       << " first_bucket_cap_bytes=" << options.first_bucket_cap_bytes() << " bucket_caps_bytes=";
  for (const std::size_t cap : options.bucket_caps_bytes()) text << cap << ",";
  text << " learn_order=" << options.learn_order()
       << " tune_buckets_after=" << options.tune_buckets_after()
       << " broadcast_at_start=" << options.broadcast_at_start() << " ignored_names=";
  for (const std::string& name : options.ignored_names()) text << name << ",";
  text << " averaging=" << name_of(options.averaging())
       << " buffer_sync=" << name_of(options.buffer_sync()) << " reduce_dtype=";
  if (options.reduce_dtype()) text << *options.reduce_dtype();
  text << " static_graph=" << options.static_graph()
       << " gradients_in_group_memory=" << options.gradients_in_group_memory()
       << " symmetric_memory=" << options.symmetric_memory();
  return std::move(text).str();
}

}  // namespace lockstep
