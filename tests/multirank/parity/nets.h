// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/torch.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::testing::parity {

/// Tensors by name, as the oracle's batches are.
using Batch = std::map<std::string, torch::Tensor>;

/// A network of the parity cases. One type for all, so that DDP is compiled for one.
struct NetImpl : torch::nn::Module {
  virtual std::vector<torch::Tensor> forward(const Batch& batch) = 0;
};
TORCH_MODULE(Net);

// The networks of tests/python/ddp_nets.py, with the same names of parameters, for one rank.
using MakeNet = std::function<std::shared_ptr<NetImpl>(int rank)>;
std::shared_ptr<NetImpl> mlp(int rank);
std::shared_ptr<NetImpl> layer_norm(int rank);
std::shared_ptr<NetImpl> first_layer_frozen(int rank);
std::shared_ptr<NetImpl> convolutional(int rank);
std::shared_ptr<NetImpl> depthwise(int rank);
std::shared_ptr<NetImpl> batch_norm(int rank);
std::shared_ptr<NetImpl> group_norm(int rank);
std::shared_ptr<NetImpl> running_mean(int rank);
std::shared_ptr<NetImpl> transformer(int rank);
std::shared_ptr<NetImpl> lstm(int rank);
std::shared_ptr<NetImpl> gru(int rank);
std::shared_ptr<NetImpl> bag_of_words(int rank);
std::shared_ptr<NetImpl> sparse_bag_of_words(int rank);
std::shared_ptr<NetImpl> tied(int rank);
std::shared_ptr<NetImpl> branches(int rank);
std::shared_ptr<NetImpl> unused_layer(int rank);
std::shared_ptr<NetImpl> several_outputs(int rank);
std::shared_ptr<NetImpl> checkpointed(int rank);
std::shared_ptr<NetImpl> complex_net(int rank);
std::shared_ptr<NetImpl> odd_shapes(int rank);
std::shared_ptr<NetImpl> two_dtypes(int rank);

// Losses, given a way to run the network.
using Forward = std::function<std::vector<torch::Tensor>(const Batch&)>;
using Loss = std::function<torch::Tensor(const Forward&, const Batch&)>;
torch::Tensor classify(const Forward& forward, const Batch& batch);
torch::Tensor classify_and_measure(const Forward& forward, const Batch& batch);
torch::Tensor compare_two(const Forward& forward, const Batch& batch);
torch::Tensor look_first(const Forward& forward, const Batch& batch);

}  // namespace lockstep::testing::parity
