// What Python calls, for float and double: raymeta/ops/*.py call them, with sizes first.
#include "convolution.h"
#include "first.h"
#include "tail.h"

using namespace raymeta;

// The arguments of the kernels of tail.h and first.h begin with sizes and the activation's slope; the size of the
// pooling's windows is known when they are compiled.
#define BY_SIDE(pool, call)     \
    if (pool) {                 \
        constexpr int SIDE = 2; \
        call;                   \
        return;                 \
    }                           \
    constexpr int SIDE = 1;     \
    call;
#define TAIL Tail({s[0], s[1], s[2], s[3], s[4] != 0, slope})
#define IMAGES Images({s[0], s[1], s[2], s[3]})
#define RESULTS IMAGES.results(s[4], s[5], slope)
#define CODES std::uint8_t*

#define FOR_TYPE(T, name)                                                                                              \
    extern "C" void convolve_##name(const long* s, const T* x, const T* w, const T* x2, const T* w2, T* z) {           \
        convolve<T>({s[0], s[1], s[2], s[3], s[4], s[5]}, x, w, x2, w2, z);                                            \
    }                                                                                                                  \
    extern "C" void convolve_back_##name(const long* s, const T* dz, const T* x, const T* w, T* dx, T* dw) {           \
        convolve_back<T>({s[0], s[1], s[2], s[3], s[4], s[5]}, dz, x, w, dx, dw);                                      \
    }                                                                                                                  \
    extern "C" void statistics_##name(const long* s, double eps, const T* z, T* mean, T* inverse) {                    \
        statistics<T>({s[0], s[1], s[2], s[3], false, 0}, z, eps, mean, inverse);                                      \
    }                                                                                                                  \
    extern "C" void tail_##name(const long* s, double slope, const T* z, const T* mean, const T* inverse,              \
                                const T* scale, const T* shift, T* y, CODES codes, T* picked) {                        \
        BY_SIDE(s[4], (tail<T, SIDE>(TAIL, z, mean, inverse, scale, shift, y, codes, picked)))                         \
    }                                                                                                                  \
    extern "C" void tail_back_##name(const long* s, double slope, const T* dy, const T* z, const T* scale,             \
                                     const CODES codes, const T* picked, const T* mean, const T* inverse, T* of_shift, \
                                     T* of_scale, T* dz) {                                                             \
        BY_SIDE(s[4],                                                                                                  \
                (tail_back<T, SIDE>(TAIL, s[5], dy, z, scale, codes, picked, mean, inverse, of_shift, of_scale, dz)))  \
    }                                                                                                                  \
    extern "C" void tail_twice_##name(const long* s, double slope, const T* u, const T* us, const T* ut, const T* dy,  \
                                      const T* z, const T* scale, const CODES codes, const T* picked, const T* mean,   \
                                      const T* inverse, const T* dshift, const T* dscale, T* of_dy, T* of_z,           \
                                      T* of_scale) {                                                                   \
        BY_SIDE(s[4], (tail_twice<T, SIDE>(TAIL, s[5], u, us, ut, dy, z, scale, codes, picked, mean, inverse, dshift,  \
                                           dscale, of_dy, of_z, of_scale)))                                            \
    }                                                                                                                  \
    extern "C" void first_##name(const long* s, double slope, const T* images, const T* w, const T* shift, T* y,       \
                                 CODES codes) {                                                                        \
        BY_SIDE(s[5], (first<T, SIDE, false>(IMAGES, RESULTS, images, w, shift, y, codes)))                            \
    }                                                                                                                  \
    extern "C" void first_picked_##name(const long* s, double slope, const T* images, const T* w, const T* shift,      \
                                        T* y, CODES codes) {                                                           \
        BY_SIDE(s[5], (first<T, SIDE, true>(IMAGES, RESULTS, images, w, shift, y, codes)))                             \
    }                                                                                                                  \
    extern "C" void first_back_##name(const long* s, double slope, const T* images, const T* dy, const CODES codes,    \
                                      T* of_w, T* of_shift) {                                                          \
        BY_SIDE(s[5], (first_back<T, SIDE>(IMAGES, RESULTS, images, dy, codes, of_w, of_shift)))                       \
    }                                                                                                                  \
    extern "C" void moments_##name(const long* s, const T* images, double* of_taps, double* of_products) {             \
        moments<T>(IMAGES, images, of_taps, of_products);                                                              \
    }                                                                                                                  \
    extern "C" void fold_##name(const long* s, double eps, const T* m, const T* c, const T* w, const T* scale,         \
                                const T* shift, T* matrix, T* offset, double* inverse) {                               \
        fold<T>({s[0], s[1], eps}, m, c, w, scale, shift, matrix, offset, inverse);                                    \
    }                                                                                                                  \
    extern "C" void fold_back_##name(const long* s, double eps, const T* m, const T* c, const T* w, const T* scale,    \
                                     const double* inverse, const T* p, const T* q, T* of_w, T* of_scale) {            \
        fold_back<T>({s[0], s[1], eps}, m, c, w, scale, inverse, p, q, of_w, of_scale);                                \
    }                                                                                                                  \
    extern "C" void fold_twice_##name(const long* s, double eps, const T* m, const T* c, const T* w, const T* scale,   \
                                      const double* inverse, const T* p, const T* q, const T* uw, const T* us,         \
                                      T* of_p, T* of_q, T* of_w, T* of_scale) {                                        \
        fold_twice<T>({s[0], s[1], eps}, m, c, w, scale, inverse, p, q, uw, us, of_p, of_q, of_w, of_scale);           \
    }

FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
