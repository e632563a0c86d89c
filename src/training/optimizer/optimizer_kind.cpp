// SPDX-License-Identifier: BSD-3-Clause
#include "training/optimizer/optimizer_kind.h"

#include <c10/util/Exception.h>
#include <lockstep/optim/named_optimizer.h>

#include <type_traits>
#include <typeinfo>
#include <utility>

#include "training/optimizer/fields.h"
#include "training/optimizer/named_fields.h"

namespace lockstep::training {
namespace {

using torch::optim::OptimizerOptions;
using torch::optim::OptimizerParamState;

/// One of LibTorch's.
template <class Options, class State>
class LibTorchKind final : public OptimizerKind {
 public:
  /// `python_only`: what Python's groups have beside the fields, with its defaults.
  explicit LibTorchKind(const char* python_only) : python_only_(python_only) {}

  [[nodiscard]] std::string write(const OptimizerOptions& options,
                                  const std::vector<std::string>& params) const override {
    auto own = dynamic_cast<const Options&>(options);
    GroupWriter writer;
    visit_options(own, writer);
    return writer.object(params, python_only_);
  }
  [[nodiscard]] std::unique_ptr<OptimizerOptions> read(const OptimizerOptions& options,
                                                       const GroupJson& group) const override {
    GroupReader reader(group);
    reader.check_python_only(python_only_);
    auto own = std::make_unique<Options>(dynamic_cast<const Options&>(options));
    visit_options(*own, reader);
    return own;
  }
  void write_state(const OptimizerParamState& state, StateWriter& writer) const override {
    auto own = dynamic_cast<const State&>(state);
    visit_state(own, writer);
  }
  [[nodiscard]] std::unique_ptr<OptimizerParamState> read_state(
      StateReader& reader) const override {
    auto own = std::make_unique<State>();
    visit_state(*own, reader);
    return own;
  }
  [[nodiscard]] bool needs_same_order() const override {
    // It has one long vector of all parameters.
    return std::is_same_v<State, torch::optim::LBFGSParamState>;
  }

 private:
  const char* python_only_;
};

/// One that names its fields itself.
class NamedKind final : public OptimizerKind {
 public:
  explicit NamedKind(const optim::NamedOptimizer& optimizer) : optimizer_(optimizer) {}

  [[nodiscard]] std::string write(const OptimizerOptions& options,
                                  const std::vector<std::string>& params) const override {
    GroupWriter writer;
    NamedOptionWriter fields(writer);
    optimizer_.visit_options(*options.clone(), fields);
    return writer.object(params, fields.constants());
  }
  [[nodiscard]] std::unique_ptr<OptimizerOptions> read(const OptimizerOptions& options,
                                                       const GroupJson& group) const override {
    auto own = options.clone();
    GroupReader reader(group);
    NamedOptionReader fields(reader);
    optimizer_.visit_options(*own, fields);
    return own;
  }
  void write_state(const OptimizerParamState& state, StateWriter& writer) const override {
    NamedStateWriter fields(writer);
    optimizer_.visit_state(*state.clone(), fields);
  }
  [[nodiscard]] std::unique_ptr<OptimizerParamState> read_state(
      StateReader& reader) const override {
    auto own = optimizer_.new_state();
    NamedStateReader fields(reader);
    optimizer_.visit_state(*own, fields);
    return own;
  }

 private:
  const optim::NamedOptimizer& optimizer_;
};

}  // namespace

std::unique_ptr<OptimizerKind> kind_of(const torch::optim::Optimizer& optimizer) {
  using namespace torch::optim;
  if (const auto* named = dynamic_cast<const optim::NamedOptimizer*>(&optimizer)) {
    return std::make_unique<NamedKind>(*named);
  }
  constexpr const char* kAdam =
      R"("maximize":false,"foreach":null,"capturable":false,"differentiable":false,"fused":null,"decoupled_weight_decay":false)";
  constexpr const char* kAdamW =
      R"("maximize":false,"foreach":null,"capturable":false,"differentiable":false,"fused":null,"decoupled_weight_decay":true)";
  const auto& options = optimizer.defaults();
  if (dynamic_cast<const SGDOptions*>(&options) != nullptr) {
    return std::make_unique<LibTorchKind<SGDOptions, SGDParamState>>(
        R"("maximize":false,"foreach":null,"differentiable":false,"fused":null)");
  }
  if (dynamic_cast<const AdamOptions*>(&options) != nullptr) {
    return std::make_unique<LibTorchKind<AdamOptions, AdamParamState>>(kAdam);
  }
  if (dynamic_cast<const AdamWOptions*>(&options) != nullptr) {
    return std::make_unique<LibTorchKind<AdamWOptions, AdamWParamState>>(kAdamW);
  }
  if (dynamic_cast<const RMSpropOptions*>(&options) != nullptr) {
    return std::make_unique<LibTorchKind<RMSpropOptions, RMSpropParamState>>(
        R"("capturable":false,"foreach":null,"maximize":false,"differentiable":false)");
  }
  if (dynamic_cast<const AdagradOptions*>(&options) != nullptr) {
    return std::make_unique<LibTorchKind<AdagradOptions, AdagradParamState>>(
        R"("foreach":null,"maximize":false,"differentiable":false,"fused":null)");
  }
  if (dynamic_cast<const LBFGSOptions*>(&options) != nullptr) {
    return std::make_unique<LibTorchKind<LBFGSOptions, LBFGSParamState>>("");
  }
  TORCH_CHECK(false,
              "the state of the optimizer: there are no names for what an optimizer with options "
              "of type ",
              typeid(options).name(),
              " knows; one of your own derives from lockstep::optim::NamedOptimizer too");
}

}  // namespace lockstep::training
