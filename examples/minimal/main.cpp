// SPDX-License-Identifier: BSD-3-Clause
// The shortest program that trains on all ranks in step:  mpirun -n 2 minimal [folder of
// Fashion-MNIST]
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <string>

// The training images of Fashion-MNIST, as Debian's package dataset-fashion-mnist installs them.
struct FashionMnist : lockstep::data::IdxDataset {
  explicit FashionMnist(const std::string& root)
      : IdxDataset(root + "/train-images-idx3-ubyte.gz", root + "/train-labels-idx1-ubyte.gz",
                   lockstep::data::IdxDatasetOptions().mean(0.286).std(0.353)) {}
};

// A small convolutional network.
struct NetImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& images) {
    auto x = torch::max_pool2d(torch::relu(conv1(images)), 2);  // 16 x 14 x 14
    x = torch::max_pool2d(torch::relu(conv2(x)), 2);            // 32 x 7 x 7
    return output(x.flatten(1));
  }

  torch::nn::Conv2d conv1 =
      register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 16, 3).padding(1)));
  torch::nn::Conv2d conv2 =
      register_module("conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(16, 32, 3).padding(1)));
  torch::nn::Linear output = register_module("output", torch::nn::Linear(32 * 7 * 7, 10));
};
TORCH_MODULE(Net);

// clang-format off
// [program]
int main(int argc, char** argv) {
  const std::string root = argc > 1 ? argv[1] : "/usr/share/datasets/fashion-mnist";
  auto group  = lockstep::init_process_group();   // mpirun, srun, torchrun-style variables, or alone
  auto device = lockstep::bind_device(*group);    // one rank, one GPU; CPU where there is none

  lockstep::data::DataLoader loader(              // this rank's share of the images, in batches
      FashionMnist(root),
      lockstep::data::DistributedSampler(60000, group->size(), group->rank(),
          lockstep::data::DistributedSamplerOptions().shuffle(true).seed(7)),
      lockstep::data::DataLoaderOptions().batch_size(64).workers(2));  // 2 processes; 0: none

  Net net;                                        // any TORCH_MODULE
  net->to(device);
  lockstep::DistributedDataParallel<Net> model(net, group,
      lockstep::DistributedDataParallelOptions().bucket_cap_bytes(25 << 20));
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));

  for (int epoch = 0; epoch < 3; ++epoch) {
    loader.set_epoch(epoch);
    for (auto& batch : loader) {                  // batch.data, batch.target
      optimizer.zero_grad();
      auto loss = torch::nn::functional::cross_entropy(
          model->forward(batch.data.to(device)), batch.target.to(device));
      loss.backward();                            // buckets are averaged while backward still runs
      optimizer.step();
    }
  }
  group->close();                                 // collective, may throw; a destructor never does
}
// [program]
