// What Python calls, raymeta/ops/*.py, with sizes first: for one type of number, -DNUMBER=float or double.
#include "convolution.h"
#include "first.h"
#include "tail.h"

using T = NUMBER;
using Codes = std::uint8_t;

// What is known when a kernel is compiled: the tiles of a convolution, the size of the pooling's windows
#define CHOOSE(name, condition, yes, no, call) \
    if (condition) {                           \
        constexpr int name = yes;              \
        call;                                  \
        return;                                \
    }                                          \
    constexpr int name = no;                   \
    call;
#define BY_SIDE(pool, call) CHOOSE(SIDE, pool, 2, 1, call)
#define MAPS raymeta::Maps({s[0], s[1], s[2], s[3], s[4], s[5], s[6]})
// The arguments of the kernels of tail.h and first.h begin with sizes and the activation's slope.
#define TAIL raymeta::Tail({s[0], s[1], s[2], s[3], s[4] != 0, slope})
#define IMAGES raymeta::Images({s[0], s[1], s[2], s[3]})
#define RESULTS IMAGES.results(s[4], s[5], slope)

extern "C" {

void convolve(const long* s, const T* x, const T* w, const T* x2, const T* w2, T* z) {
    CHOOSE(M, MAPS.by_fours(), 4, 2, (raymeta::convolve<T, M>(MAPS, x, w, x2, w2, z)))
}

void convolve_back(const long* s, const T* dz, const T* x, const T* w, T* dx, T* dw) {
    CHOOSE(M, MAPS.by_fours(), 4, 2, (raymeta::convolve_back<T, M>(MAPS, dz, x, w, dx, dw)))
}

void statistics(const long* s, double eps, const T* z, T* mean, T* inverse) {
    raymeta::statistics<T>({s[0], s[1], s[2], s[3], false, 0}, z, eps, mean, inverse);
}

void tail(const long* s, double slope, const T* z, const T* mean, const T* inverse, const T* scale, const T* shift,
          T* y, Codes* codes, T* picked) {
    BY_SIDE(s[4], (raymeta::tail<T, SIDE>(TAIL, z, mean, inverse, scale, shift, y, codes, picked)))
}

void tail_back(const long* s, double slope, const T* dy, const T* z, const T* scale, const Codes* codes,
               const T* picked, const T* mean, const T* inverse, T* of_shift, T* of_scale, T* dz) {
    BY_SIDE(s[4], (raymeta::tail_back<T, SIDE>(TAIL, s[5], dy, z, scale, codes, picked, mean, inverse, of_shift,
                                               of_scale, dz)))
}

void tail_twice(const long* s, double slope, const T* u, const T* us, const T* ut, const T* dy, const T* z,
                const T* scale, const Codes* codes, const T* picked, const T* mean, const T* inverse, const T* dshift,
                const T* dscale, T* of_dy, T* of_z, T* of_scale) {
    BY_SIDE(s[4], (raymeta::tail_twice<T, SIDE>(TAIL, s[5], u, us, ut, dy, z, scale, codes, picked, mean, inverse,
                                                dshift, dscale, of_dy, of_z, of_scale)))
}

void first(const long* s, double slope, const T* images, const T* w, const T* shift, T* y, Codes* codes) {
    BY_SIDE(s[5], (raymeta::first<T, SIDE, false>(IMAGES, RESULTS, images, w, shift, y, codes)))
}

void first_picked(const long* s, double slope, const T* images, const T* w, const T* shift, T* y, Codes* codes) {
    BY_SIDE(s[5], (raymeta::first<T, SIDE, true>(IMAGES, RESULTS, images, w, shift, y, codes)))
}

void first_back(const long* s, double slope, const T* images, const T* dy, const Codes* codes, T* of_w, T* of_shift) {
    BY_SIDE(s[5], (raymeta::first_back<T, SIDE>(IMAGES, RESULTS, images, dy, codes, of_w, of_shift)))
}

void moments(const long* s, const T* images, double* of_taps, double* of_products) {
    raymeta::moments<T>(IMAGES, images, of_taps, of_products);
}

void fold(const long* s, double eps, const T* m, const T* c, const T* w, const T* scale, const T* shift, T* matrix,
          T* offset, double* inverse) {
    raymeta::fold<T>({s[0], s[1], eps}, m, c, w, scale, shift, matrix, offset, inverse);
}

void fold_back(const long* s, double eps, const T* m, const T* c, const T* w, const T* scale, const double* inverse,
               const T* p, const T* q, T* of_w, T* of_scale) {
    raymeta::fold_back<T>({s[0], s[1], eps}, m, c, w, scale, inverse, p, q, of_w, of_scale);
}

void fold_twice(const long* s, double eps, const T* m, const T* c, const T* w, const T* scale, const double* inverse,
                const T* p, const T* q, const T* uw, const T* us, T* of_p, T* of_q, T* of_w, T* of_scale) {
    raymeta::fold_twice<T>({s[0], s[1], eps}, m, c, w, scale, inverse, p, q, uw, us, of_p, of_q, of_w, of_scale);
}

}  // extern "C"
