// SPDX-License-Identifier: BSD-3-Clause
// LibTorch lets one add a layer to its dispatcher, which is on in threads that ask for it. The
// layer here has a kernel for each function that takes a generator and a tensor to fill or to look
// at: it adds a generator where none is given. All other functions pass the layer by at no cost.
#include "core/thread_generator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace lockstep {
namespace {

// "Out-of-core": LibTorch keeps it for a library outside of it, which is no longer made, and uses
// it nowhere itself.
constexpr auto kLayer = c10::DispatchKey::DeferredInit;

thread_local const ThreadGenerator* innermost = nullptr;

bool is_on_cpu(const torch::jit::Stack& stack, std::size_t arguments) {
  const auto first = stack.end() - static_cast<std::ptrdiff_t>(arguments);
  const auto tensor = std::find_if(first, stack.end(), [](const c10::IValue& value) {
    return value.isTensor() && value.toTensor().defined();
  });
  return tensor != stack.end() && tensor->toTensor().is_cpu();
}

bool is_the_programs(const c10::IValue& generator) {
  return generator.isNone() || (generator.isGenerator() &&
                                generator.toGenerator() == at::detail::getDefaultCPUGenerator());
}

// The kernel of the layer. A function without a tensor, such as `rand`, calls another that has one.
void draw_from_own(const c10::OperatorHandle& function, c10::DispatchKeySet keys,
                   torch::jit::Stack* stack) {
  const auto& arguments = function.schema().arguments();
  if (innermost != nullptr && is_on_cpu(*stack, arguments.size())) {
    const auto first = stack->end() - static_cast<std::ptrdiff_t>(arguments.size());
    for (std::size_t at = 0; at < arguments.size(); ++at) {
      auto& value = first[static_cast<std::ptrdiff_t>(at)];
      if (arguments[at].name() != "generator" || !is_the_programs(value)) continue;
      if (const auto* const own = ThreadGenerator::current()) value = *own;
    }
  }
  function.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kLayer),
                           stack);
}

bool draws_for_a_tensor(const c10::FunctionSchema& schema) {
  const auto& arguments = schema.arguments();
  const auto any = [&](const auto& is) {
    return std::any_of(arguments.begin(), arguments.end(), is);
  };
  return any([](const c10::Argument& argument) { return argument.name() == "generator"; }) &&
         any([](const c10::Argument& argument) {
           return argument.type()->kind() == c10::TypeKind::TensorType;
         });
}

// Lives as long as the process: threads that are stuck may still draw when it ends.
struct Layer {
  torch::Library all{torch::Library::IMPL, "_", kLayer, __FILE__, __LINE__};
  torch::Library aten{torch::Library::IMPL, "aten", kLayer, __FILE__, __LINE__};

  Layer() {
    constexpr std::string_view kPrefix = "aten::";
    auto& dispatcher = c10::Dispatcher::singleton();
    TORCH_CHECK(
        !dispatcher.hasBackendFallbackForDispatchKey(kLayer),
        "another library of this program uses LibTorch's dispatch key ", c10::toString(kLayer),
        ", by which samples of a DataLoader and ranks that are threads get random numbers of "
        "their own");
    all.fallback(torch::CppFunction::makeFallthrough());
    for (const auto& name : dispatcher.getAllOpNames()) {
      if (name.name.rfind(kPrefix, 0) != 0) continue;
      const auto function = dispatcher.findSchema(name);
      if (!function || !draws_for_a_tensor(function->schema())) continue;
      const auto full_name = c10::toString(name).substr(kPrefix.size());
      aten.impl(full_name.c_str(), torch::CppFunction::makeFromBoxedFunction<&draw_from_own>());
    }
  }
};

}  // namespace

void redirect_draws() {
  [[maybe_unused]] static const auto* const layer = new Layer();
}

ThreadGenerator::ThreadGenerator(Source source)
    : source_(std::move(source)), before_(innermost), redirection_(kLayer) {
  redirect_draws();
  innermost = this;
}

ThreadGenerator::~ThreadGenerator() {
  innermost = before_;
}

const at::Generator* ThreadGenerator::current() {
  return innermost == nullptr ? nullptr : innermost->source_();
}

}  // namespace lockstep
